"""`python -m bench.gpu`: ggserve on a machine with a GPU, against llama-bench of the same build. Takes under eight
minutes.

Measures prompts, decoding, and 1 to 16 concurrent clients. LLAMA_SERVER names the build; the default is xllamacpp's.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from bench.bandwidth import bytes_per_token
from bench.client import BenchError, complete
from bench.machine import machine
from bench.prompts import words
from bench.servers import Running, Server, Setup, running
from ggserve.engines.llama_cpp.build import chosen_build
from ggserve.engines.llama_cpp.in_process import gpus
from ggserve.errors import EngineError
from ggserve.hub.default import packaged_model
from ggserve.machine import usable_cores

CLIENTS = (1, 2, 4, 8, 16)
PROMPT, ANSWER = 512, 128  # tokens
CONTEXT = 1024  # tokens per slot
TRIES = 3
SECONDS = 120  # timeout of llama-bench

Rates = dict[str, float]  # tokens per second, by row


async def measure(server: Running) -> Rates:
    """Return the best of some tries for each row."""
    rates: Rates = {}

    def note(row: str, rate: float) -> None:
        rates[row] = max(rates.get(row, 0.0), rate)

    for number in range(TRIES + 1):  # the first try compiles kernels, and is slow
        first = await complete(server.url, words(PROMPT, f"prompt {number}"), 1)
        note("prompt", PROMPT / first.first_token_seconds)
        note("decode", (await complete(server.url, words(16, f"decode {number}"), ANSWER)).decode_rate)
    for count in CLIENTS:
        for number in range(TRIES):
            started = time.perf_counter()
            prompts = [words(16, f"{count} {number} {client}") for client in range(count)]
            await asyncio.gather(*(complete(server.url, text, ANSWER) for text in prompts))
            note(f"{count} clients", count * ANSWER / (time.perf_counter() - started))
    return rates


def llama_bench(path: Path, model: Path) -> Rates:
    """Return the figures of the llama-bench beside llama-server; none if there is none."""
    program = path.with_name("llama-bench")
    if not program.exists():
        return {}
    command = [str(program), "-m", str(model), "-p", str(PROMPT), "-n", str(ANSWER), "-ngl", "999", "-o", "json"]
    try:
        output = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout
    except (subprocess.SubprocessError, OSError) as error:
        print(f"llama-bench: {error}", file=sys.stderr)
        return {}
    return {"prompt" if test["n_prompt"] else "decode": float(test["avg_ts"]) for test in json.loads(output)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and return the exit code, 2 if there is no GPU."""
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
    parser.add_argument("--model", type=Path, default=packaged_model(), help="a GGUF file (default: the default model)")
    parser.add_argument("--bandwidth", type=float, help="the GPU's memory bandwidth in GB/s, from its data sheet")
    options = parser.parse_args(arguments)
    own = os.environ.get("LLAMA_SERVER", "auto")
    try:
        build = chosen_build(own)
    except EngineError as error:
        parser.error(str(error))
    devices = build.devices if build else gpus()
    if not devices or options.model is None:
        print("No GPU that llama.cpp can use, or no model: see `ggserve devices`.", file=sys.stderr)
        return 2
    setup = Setup(options.model, options.model, usable_cores(), CONTEXT)
    environment = {
        "MODEL_PATH": str(options.model),
        "ENGINE": "llama.cpp",
        "LLAMA_SERVER": own,
        "PARALLEL": str(CLIENTS[-1]),
        "CONTEXT_LENGTH": str(CONTEXT),
    }
    command = [sys.executable, "main.py", "--port", "{port}"]
    try:
        with running(Server(command, environment, slots=CLIENTS[-1]), setup) as server:
            rates = asyncio.run(measure(server))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    limits = llama_bench(build.path, options.model) if build else {}
    print(f"{date.today().isoformat()}, {machine()}, {options.model.name}, {', '.join(devices)}\n")
    print("| tokens/s | ggserve | llama-bench | ratio |\n| --- | ---: | ---: | ---: |")
    for row, rate in rates.items():
        limit = limits.get(row)
        print(f"| {row} | {rate:.0f} | {f'{limit:.0f} | {rate / limit:.2f}' if limit else ' | '} |")
    if options.bandwidth:
        most = options.bandwidth * 1e9 / bytes_per_token(options.model)
        print(f"\nMemory bandwidth allows {most:.0f} tokens/s: decoding reaches {rates['decode'] / most:.0%}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
