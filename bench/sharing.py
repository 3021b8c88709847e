"""`python -m bench.sharing`: two models that compute at the same time, against each of them alone.

The ratio compares the tokens per second of both together with what each would have in half of the time: 1 is a perfect
share of the cores, and above 1 they use cores that one model alone leaves idle.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from bench.machine import machine
from bench.others import MOST, undisturbed
from bench.report import aligned
from ggserve.engines.choice import EngineName
from ggserve.hub.default import default_model, packaged_model
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel, SamplingParams

_PAIRS: tuple[tuple[EngineName, EngineName], ...] = (
    ("llama.cpp", "llama.cpp"),
    ("llama.cpp", "ctransformers"),
    ("ctransformers", "ctransformers"),
)


async def _rates(models: list[GGUFModel], tokens: int) -> list[float]:
    """Return the tokens per second of each model, all asked at the same time, from the first token on."""

    async def rate(model: GGUFModel) -> float:
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, cache_prompt=False)
        first, count = 0.0, 0
        async for delta in model.complete("Once upon a time", params):
            if delta.completion_tokens and not first:
                first, count = time.perf_counter(), delta.completion_tokens
        return (delta.completion_tokens - count) / (time.perf_counter() - first)

    return await asyncio.gather(*map(rate, models))


def _ratio(files: dict[EngineName, Path], pair: tuple[EngineName, EngineName], tokens: int, runs: int) -> list[str]:
    models = [
        GGUFModel(files[engine], engine=engine, threads=usable_cores(), parallel=1, context_length=512)
        for engine in pair
    ]

    def measure(attempt: int) -> tuple[float, float, float]:
        single = [asyncio.run(_rates([model], tokens))[0] for model in models]
        both = asyncio.run(_rates(models, tokens))
        return sum(single) / 2, sum(both), sum(rate / one for rate, one in zip(both, single, strict=True))

    try:
        figures = [undisturbed(measure) for _ in range(runs)]
        if disturbed := sum(others > MOST for _, others in figures):
            print(f"{disturbed} of {runs} runs of {' + '.join(pair)} were disturbed by other programs", file=sys.stderr)
        alone, together, ratios = map(statistics.median, zip(*(found for found, _ in figures), strict=True))
    finally:
        for model in models:
            model.close()
    return [" + ".join(pair), f"{alone:.1f}", f"{together:.1f}", f"{ratios:.2f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.sharing", description=__doc__)
    parser.add_argument("--tokens", type=int, default=96, help="tokens per answer (default: 96)")
    parser.add_argument("--runs", type=int, default=5, help="number of runs of each pair (default: 5)")
    options = parser.parse_args()
    original, converted = packaged_model(), default_model(Path("models"))
    if original is None or converted is None:
        sys.exit("the default model is not installed: use `make bench`")
    files: dict[EngineName, Path] = {"llama.cpp": original, "ctransformers": converted}
    rows = [["models", "one alone, tokens/s", "both together", "ratio"]]
    rows += [_ratio(files, pair, options.tokens, options.runs) for pair in _PAIRS]
    print("\n".join(aligned(rows)))
    print(machine())


if __name__ == "__main__":
    main()
