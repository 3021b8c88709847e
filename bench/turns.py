"""`python -m bench.turns`: a short question beside another client's long prompt, on both engines.

The target: it is answered within twice its time alone plus the time of one piece of the long prompt, after which that
one rests. Runs a file with random weights, because the default model was trained on fewer tokens.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.machine import machine
from bench.others import Others
from bench.report import aligned
from bench.synthetic import Shape, write_model
from ggserve.engines.choice import EngineName
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel, SamplingParams
from ggserve.prompt_progress import PromptProgress

SHAPE = Shape(layers=6, width=768, feed_forward=2048, heads=12, kv_heads=4)
ENGINES: tuple[EngineName, ...] = ("llama.cpp", "ctransformers")
QUESTION, ANSWER = 20, 8  # tokens
_FIRST_WORD = 300  # token ids to draw prompts from begin here
_HEADER = ["engine", "alone", "beside", "a piece", "target", "met"]


class Pieces(PromptProgress):
    """The progress of a prompt, with the time of each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def advance(self, processed: int) -> None:
        if self.processed < processed <= self.total:
            self.times.append(time.perf_counter())
        super().advance(processed)


@dataclass
class Figures:
    """Seconds."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    piece: list[float] = field(default_factory=list)  # of pieces that no question was beside

    def row(self, engine: str) -> list[str]:
        """Return the medians, and whether the target is met."""
        alone, beside, piece = map(statistics.median, (self.alone, self.beside, self.piece))
        target = 2 * alone + piece
        met = "yes" if beside <= target else "no"
        return [engine, *(f"{seconds:.2f} s" for seconds in (alone, beside, piece, target)), met]


def _ids(vocabulary: int, count: int) -> list[int]:
    return random.choices(range(_FIRST_WORD, vocabulary), k=count)


async def _seconds(model: GGUFModel) -> float:
    """Return the time of an answer to a new question."""
    params = SamplingParams(max_tokens=ANSWER, temperature=0, ignore_eos=True)
    started = time.perf_counter()
    async for delta in model.complete(_ids(model.vocab_size, QUESTION), params):
        last = delta
    if last.completion_tokens != ANSWER:
        raise RuntimeError(f"expected {ANSWER} tokens, got {last.completion_tokens}")
    return time.perf_counter() - started


async def measure(model: GGUFModel, tokens: int, runs: int) -> Figures:
    """Ask questions alone, and then at even distances within one prompt of so many tokens."""
    figures, progress = Figures(), Pieces()
    params = SamplingParams(max_tokens=1, progress=progress)

    async def evaluate() -> None:
        async for _ in model.complete(_ids(model.vocab_size, tokens), params):
            pass

    await _seconds(model)  # warms up
    figures.alone = [await _seconds(model) for _ in range(runs)]
    long = asyncio.ensure_future(evaluate())
    for run in range(runs):
        first = len(progress.times)
        while progress.processed < tokens * (run + 1) // (runs + 2):
            await asyncio.sleep(0.01)
        times = progress.times[first:]
        figures.piece += [after - before for before, after in pairwise(times)]
        figures.beside.append(await _seconds(model))
        if long.done():
            await long  # raises its error
            raise RuntimeError("the long prompt ended too early")
    long.cancel()
    with suppress(asyncio.CancelledError):
        await long
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__)
    parser.add_argument("--tokens", type=int, default=8000, help="tokens in the long prompt (default: 8000)")
    parser.add_argument("--runs", type=int, default=7, help="questions alone, and beside it (default: 7)")
    parser.add_argument("--model", type=Path, help="a GGUF file to measure (default: a file with random weights)")
    options = parser.parse_args()
    others = Others()
    rows = [_HEADER]
    with tempfile.TemporaryDirectory(prefix="turns-") as folder:
        path = options.model or Path(folder) / "model.gguf"
        if options.model is None:
            write_model(path, SHAPE, "Q4_0", context=2 * options.tokens)
        for engine in ENGINES:
            model = GGUFModel(
                path, engine=engine, threads=usable_cores(), parallel=2, context_length=options.tokens + 256
            )
            try:
                rows.append(asyncio.run(measure(model, options.tokens, options.runs)).row(engine))
            finally:
                model.close()
            print(*rows[-1], file=sys.stderr)
    print("\n".join(aligned(rows)))
    print(f"{machine()}; other programs used {others.cores:.1f} cores in the meantime")


if __name__ == "__main__":
    main()
