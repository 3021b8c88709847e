"""`python -m bench.caches`: cost and savings of llama.cpp's KV cache types and flash attention.

Runs the default model as it was published, each time in a new process, with a prompt that nearly fills a slot.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil

from bench.machine import machine
from bench.report import aligned
from ggserve.engines.contract import CacheType
from ggserve.hub.default import packaged_model
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel, SamplingParams

RESULTS = Path(__file__).parent / "caches.json"
CONTEXT, PROMPT, ANSWER, SLOTS = 2048, 1000, 64, 2  # tokens per slot, of a prompt, of an answer; slots
Variant = tuple[CacheType, Literal["on", "off"]]  # flash attention
VARIANTS: tuple[Variant, ...] = (("f16", "on"), ("f16", "off"), ("q8_0", "on"), ("q4_0", "on"))  # type, flash attention


def measure(path: Path, cache: CacheType, attention: Literal["on", "off"]) -> dict[str, float]:
    """Return the seconds to the first token, tokens/s after it, and megabytes of the process with full slots."""
    model = GGUFModel(
        path,
        engine="llama.cpp",
        threads=usable_cores(),
        parallel=SLOTS,
        context_length=CONTEXT,
        prompt_cache=0,
        kv_cache_type=cache,
        flash_attention=attention,
    )
    try:
        tries = [asyncio.run(_answer(model)) for _ in range(SLOTS)]
        return {
            "prompt": median(first for first, _ in tries),
            "decode": (ANSWER - 1) / median(rest for _, rest in tries),
            "memory": psutil.Process().memory_full_info().pss / 1e6,
        }
    finally:
        model.close()


async def _answer(model: GGUFModel) -> tuple[float, float]:
    """Return the seconds to the first token of an answer to a new prompt, and from there to the last token."""
    prompt = [random.randrange(300, 32000) for _ in range(PROMPT)]
    started, first = time.perf_counter(), 0.0
    async for _ in model.complete(prompt, SamplingParams(max_tokens=ANSWER, temperature=0, ignore_eos=True)):
        first = first or time.perf_counter()
    return first - started, time.perf_counter() - first


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.caches", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="number of loads of each (default: 2)")
    options = parser.parse_args()
    path = packaged_model()
    if path is None:
        parser.error("the default model is not installed: use `make bench`")
    tries: dict[Variant, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                tries[variant].append(process.apply(measure, (path, *variant)))
    lines = [["KV_CACHE_TYPE", "FLASH_ATTENTION", f"prompt of {PROMPT}, s", "decode, tokens/s", "memory, MB"]]
    figures: list[dict[str, Any]] = []
    for (cache, attention), found in tries.items():
        one = {row: median(each[row] for each in found) for row in ("prompt", "decode", "memory")}
        figures.append({"type": cache, "flash attention": attention, **one})
        lines.append([cache, attention, f"{one['prompt']:.2f}", f"{one['decode']:.1f}", f"{one['memory']:.0f}"])
    RESULTS.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
    print("\n".join(aligned(lines, left=2)))


if __name__ == "__main__":
    main()
