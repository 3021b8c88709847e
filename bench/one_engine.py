"""One engine with one file, without HTTP. bench.engines runs it in a process of its own, sends it names of measurements
and reads figures, a line of JSON each."""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.client import BenchError
from bench.servers import ROOT, clean_environment
from ggserve.engines.choice import WantedEngine
from ggserve.model.gguf_model import GGUFModel, SamplingParams

Figures = dict[str, float]

SLOTS = 8
CONTEXT = 512  # tokens per slot
PROMPT, ANSWER = 256, 128  # tokens of a single answer; with several at once, each has a quarter
MANY = 4
_FIRST_WORD, _LAST_WORD = 300, 32000  # token ids to draw prompts from


class OneEngine:
    """The measurements, by name."""

    def __init__(self, path: Path, engine: WantedEngine, threads: int) -> None:
        started = time.perf_counter()
        self._model = GGUFModel(path, engine=engine, threads=threads, parallel=SLOTS, context_length=CONTEXT)
        self._load_seconds = time.perf_counter() - started

    def memory(self) -> Figures:
        """Return, after four clients, the megabytes of this process (its proportional set size), and the seconds of the
        load."""
        asyncio.run(self._together(4, 32, 4))
        asyncio.run(self._answer(16, 8))  # alone again, with what an engine learns at first
        return {"memory": psutil.Process().memory_full_info().pss / 1e6, "load": self._load_seconds}

    def alone(self) -> Figures:
        """Return the seconds to the first token, tokens per second after it, and the total seconds."""
        started = time.perf_counter()
        first, last = asyncio.run(self._answer(PROMPT, ANSWER))
        return {
            "prompt": first - started,
            "decode": (ANSWER - 1) / (last - first),
            "mix": last - started,
        }

    def clients(self, count: int) -> Figures:
        """Return the seconds of concurrent answers."""
        started = time.perf_counter()
        asyncio.run(self._together(count, PROMPT // MANY, ANSWER // MANY))
        return {f"clients-{count}": time.perf_counter() - started}

    def run(self, name: str) -> Figures:
        if name.startswith("clients-"):
            return self.clients(int(name.removeprefix("clients-")))
        return {"memory": self.memory, "alone": self.alone}[name]()

    async def _together(self, count: int, prompt: int, answer: int) -> None:
        await asyncio.gather(*(self._answer(prompt, answer) for _ in range(count)))

    async def _answer(self, prompt: int, answer: int) -> tuple[float, float]:
        """Generate greedily after a new prompt; return the times of the first and the last token."""
        ids = [random.randrange(_FIRST_WORD, _LAST_WORD) for _ in range(prompt)]
        params = SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True)
        first, tokens = 0.0, 0
        async for delta in self._model.complete(ids, params):
            first, tokens = first or time.perf_counter(), delta.completion_tokens
        if tokens != answer:
            raise BenchError(f"expected {answer} tokens, got {tokens}")
        return first, time.perf_counter()


@contextmanager
def one_engine(path: Path, engine: str, threads: int) -> Iterator[Callable[[str], Figures]]:
    """Start a process with a loaded file; return a function from a measurement's name to its figures. Raises
    BenchError."""
    command = [sys.executable, "-m", "bench.one_engine", str(path), engine, str(threads)]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def measure(name: str) -> Figures:
            assert process.stdin and process.stdout
            try:
                print(name, file=process.stdin, flush=True)
                figures: Figures = json.loads(process.stdout.readline())
            except (BrokenPipeError, ValueError):
                raise BenchError(f"{engine} exited while measuring {name} of {path.name}") from None
            return figures

        yield measure  # the end of its input ends it


def main() -> None:
    """Measure what standard input asks for, a name per line, until it ends."""
    parser = argparse.ArgumentParser("python -m bench.one_engine")
    parser.add_argument("path", type=Path)
    parser.add_argument("engine")
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    engine = OneEngine(options.path, options.engine, options.threads)
    for line in sys.stdin:
        print(json.dumps(engine.run(line.strip())), flush=True)


if __name__ == "__main__":
    main()
