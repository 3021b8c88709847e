"""The limit: the same work as a bare ctransformers loop, `eval` and `argmax`, without a server or a sampler.

bench.__main__ runs it in a process of its own, sends it scenarios and reads figures, a line of JSON each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from bench.client import BenchError
from bench.prompts import first_turn, next_turn, words
from bench.rows import QUICK, Load, Measures
from bench.servers import ROOT, Setup
from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers.context import PREFILL_CHUNK, Context
from ggserve.model.gguf_model import GGUFModel


class Loop:
    """One context, and a greedy loop over it."""

    def __init__(self, setup: Setup, threads: int) -> None:
        self._context = Context(setup.converted, "gguf", EngineOptions(context_length=setup.context))
        self._context.open()
        self._threads = threads

    def prefill(self, tokens: Sequence[int], keep: int = 0) -> int:
        """Evaluate `tokens` after the first `keep` of those in the context and return the next token."""
        del self._context.tokens[keep:]
        for start in range(0, len(tokens), PREFILL_CHUNK):
            self._context.eval(tokens[start : start + PREFILL_CHUNK], self._threads)
        return int(self._context.logits().argmax())

    def decode(self, token: int, count: int) -> list[int]:
        """Return the `count` tokens after `token`."""
        decoded = []
        for _ in range(count):
            self._context.eval((token,), self._threads)
            token = int(self._context.logits().argmax())
            decoded.append(token)
        return decoded


class Bare:
    """The scenarios of bench.rows, as far as they make sense here."""

    def __init__(self, setup: Setup, load: Load) -> None:
        # For its tokenizer and template.
        self._model = GGUFModel(setup.converted, engine="ctransformers", context_length=setup.context, parallel=1)
        self._load = load
        self._alone = Loop(setup, setup.threads)
        # The fastest form for many clients: a context per core, with one thread.
        self._loops = [Loop(setup, 1) for _ in range(setup.threads)]

    def decode(self, seed: str) -> Measures:
        token = self._alone.prefill(self._prompt(self._load.short_prompt_tokens, seed))
        count = self._load.decode_tokens - 1
        return {"decode": [count / _seconds(lambda: self._alone.decode(token, count))]}

    def long_prompt(self, seed: str) -> Measures:
        tokens = self._prompt(self._load.prompt_tokens, seed)
        return {"prompt": [_seconds(lambda: self._alone.prefill(tokens))]}

    def chat_turn(self, seed: str) -> Measures:
        messages = first_turn(self._load.prompt_tokens // 3, seed)
        before = self._model.tokenize_chat(messages)
        token = self._alone.prefill(before)
        answer = [token, *self._alone.decode(token, self._load.stream_tokens - 1)]
        known = [*before, *answer[:-1]]  # the last token of an answer is not evaluated
        after = self._model.tokenize_chat(next_turn(messages, self._model.detokenize(answer), seed))
        keep = next((i for i, (a, b) in enumerate(zip(known, after, strict=False)) if a != b), len(known))
        return {"turn": [_seconds(lambda: self._alone.prefill(after[keep:], keep))]}

    def many_clients(self, count: int, seed: str) -> Measures:
        load = self._load
        prompts = [self._prompt(load.short_prompt_tokens, f"{seed}, client {client}") for client in range(count)]
        free: SimpleQueue[Loop] = SimpleQueue()
        for loop in self._loops:
            free.put(loop)

        def answer(tokens: list[int]) -> None:
            loop = free.get()
            loop.decode(loop.prefill(tokens), load.stream_tokens - 1)
            free.put(loop)

        with ThreadPoolExecutor(len(self._loops)) as workers:
            seconds = _seconds(lambda: list(workers.map(answer, prompts)))
        return {f"clients-{count}": [count * load.stream_tokens / seconds]}

    def _prompt(self, tokens: int, seed: str) -> list[int]:
        return self._model.tokenize(words(tokens, seed))

    def run(self, scenario: str, seed: str) -> Measures:
        """Return the figures of one scenario; none if it makes no sense without a server."""
        if scenario.startswith("clients-"):
            return self.many_clients(int(scenario.removeprefix("clients-")), seed)
        runs = {"decode": self.decode, "prompt": self.long_prompt, "turn": self.chat_turn}
        return runs[scenario](seed) if scenario in runs else {}


@contextmanager
def bare_loop(setup: Setup, *, quick: bool) -> Iterator[Callable[[str, str], Measures]]:
    """Start a process that measures a scenario, given by name and seed, at each call. The calls may raise
    BenchError."""
    job = {
        "original": str(setup.original),
        "converted": str(setup.converted),
        "threads": setup.threads,
        "context": setup.context,
        "quick": quick,
    }
    command = [sys.executable, "-m", "bench.bare", json.dumps(job)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):

        def measure(scenario: str, seed: str) -> Measures:
            assert process.stdin and process.stdout
            try:
                print(json.dumps([scenario, seed]), file=process.stdin, flush=True)
                measures: Measures = json.loads(process.stdout.readline())
            except (BrokenPipeError, ValueError):
                errors.seek(0)
                raise BenchError(f"the bare loop exited: {errors.read()[-300:]}") from None
            return measures

        measure("decode", "warm-up")
        yield measure  # the end of its input ends it


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure what standard input asks for, line by line, until it ends."""
    parser = argparse.ArgumentParser("python -m bench.bare")
    parser.add_argument("job", type=json.loads)
    job = parser.parse_args().job
    setup = Setup(Path(job["original"]), Path(job["converted"]), job["threads"], job["context"])
    bare = Bare(setup, QUICK if job["quick"] else Load())
    for line in sys.stdin:
        scenario, seed = json.loads(line)
        print(json.dumps(bare.run(scenario, seed)), flush=True)


if __name__ == "__main__":
    main()
