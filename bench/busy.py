"""`python -m bench.busy`: prompts and decoding, alone and beside programs that keep cores busy.

Measures ggserve on both engines, and llama-server's core with default settings, in turns; with LLAMA_SERVER also that
build alone and behind ggserve. The figure in brackets is the share of the speed without busy programs: with L of them
on C cores, a fair share is C / (C + L).
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import partial
from pathlib import Path

from bench.__main__ import CONTEXT, NATIVE_SERVERS, find_setup
from bench.client import BenchError, complete
from bench.machine import machine
from bench.others import MOST, undisturbed
from bench.prompts import words
from bench.servers import SERVERS, Running, running
from ggserve.machine import usable_cores

SUBJECTS = ("ggserve", "ggserve-llama.cpp", "llama-server", *NATIVE_SERVERS)
BUSY = (0, 2, 6)  # programs
PROMPT, ANSWER = 256, 32  # tokens

Figures = dict[tuple[str, str, int], list[float]]  # tokens/s, by subject, kind and number of busy programs


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Run processes that each keep a core busy."""
    programs = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


async def measure(server: Running, seed: str) -> dict[str, float]:
    """Return the tokens per second of a prompt, and of the answer to a short one."""
    prompt = await complete(server.url, words(PROMPT, f"{seed} prompt"), 1)
    answer = await complete(server.url, words(8, f"{seed} answer"), ANSWER)
    return {"prompt": PROMPT / prompt.first_token_seconds, "decode": answer.decode_rate}


def _beside(server: Running, seed: str, count: int, attempt: int) -> dict[str, float]:
    with busy_programs(count):
        return asyncio.run(measure(server, f"{seed} {attempt}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and return the exit code."""
    parser = argparse.ArgumentParser("python -m bench.busy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each (default: 3)")
    parser.add_argument("--model", type=Path, help="a GGUF file to measure (default: the default model)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="number of compute threads (default: usable cores)"
    )
    parser.add_argument("--servers", default=",".join(SUBJECTS), help=f"comma-separated: {', '.join(SERVERS)}")
    options = parser.parse_args(arguments)
    figures: Figures = {}
    with ExitStack() as stack:
        servers: dict[str, Running] = {}
        for name in options.servers.split(","):
            try:
                setup = find_setup(options.threads, options.model)
                servers[name] = stack.enter_context(running(SERVERS[name](setup, 1), setup))
                asyncio.run(measure(servers[name], "warm-up"))
            except BenchError as error:
                print(f"{name} is skipped: {error}", file=sys.stderr)
        for number in range(options.rounds):
            for count in BUSY:
                for name, server in servers.items():
                    rates, others = undisturbed(partial(_beside, server, f"{number} {count}", count))
                    if others > MOST:
                        print(
                            f"{name} with {count} busy programs: other programs used {others:.1f} cores",
                            file=sys.stderr,
                        )
                    for kind, rate in rates.items():
                        figures.setdefault((name, kind, count), []).append(rate)
    print(f"{date.today().isoformat()}, {machine()}, {options.threads} threads, context {CONTEXT}\n")
    print(table(list(servers), figures))
    return 0


def table(names: Sequence[str], figures: Figures) -> str:
    """Return the medians in Markdown."""
    head = " | ".join(f"{kind}, {count} busy" for kind in ("prompt", "decode") for count in BUSY)
    lines = [f"| tokens/s | {head} |", f"| --- |{' ---: |' * 2 * len(BUSY)}"]
    for name in names:
        cells = []
        for kind in ("prompt", "decode"):
            quiet = statistics.median(figures[name, kind, 0])
            for count in BUSY:
                rate = statistics.median(figures[name, kind, count])
                cells.append(f"{rate:.1f}" if count == 0 else f"{rate:.1f} ({rate / quiet:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
