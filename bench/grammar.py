"""`python -m bench.grammar`: the cost of a grammar.

Measures the time of a step in the grammar, with the vocabulary of the default model, and the speed of an answer with
long keys, so that much of it is forced, compared with free text.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import aligned
from ggserve.generation import Grammar, SamplingParams, schema_grammar
from ggserve.grammar.matcher import Grammars, GrammarVocabulary
from ggserve.hub.default import default_model
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.gguf import read_gguf
from ggserve.tokenizer.tokenizer import Tokenizer

CONTEXT = 1024  # tokens
ANSWER = 96  # tokens of the free text
RUNS = 3
WALKS = 20
LONGEST_WALK = 200  # tokens
SENTENCE = {"type": "string", "maxLength": 40}
LONG_KEYS: dict[str, Any] = {
    f"a_rather_long_name_of_property_number_{number}_of_the_answer": {"type": "integer", "minimum": 0, "maximum": 99}
    for number in range(8)
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any JSON object": {"type": "object"},
    "texts": {"type": "object", "properties": {"a": SENTENCE, "b": SENTENCE}, "required": ["a", "b"]},
    "long keys": {"type": "object", "properties": LONG_KEYS, "required": list(LONG_KEYS)},
}


def steps(path: Path) -> dict[str, list[float]]:
    """Return the seconds of each step by schema: the mask, and a random allowed token."""
    tokenizer = Tokenizer.from_metadata(read_gguf(path))
    grammars = Grammars(GrammarVocabulary(tokenizer.pieces, tokenizer.end_ids, tokenizer.encode_middle))
    random = np.random.default_rng(1)

    def walk(grammar: Grammar) -> list[float]:
        matcher, _ = asyncio.run(grammars.matcher(grammar))
        taken: list[float] = []
        while not matcher.ended and len(taken) < LONGEST_WALK:
            started = time.perf_counter()
            allowed = matcher.allowed()
            seconds = time.perf_counter() - started
            token = int(random.choice(np.flatnonzero(allowed)))
            started = time.perf_counter()
            matcher.take([token])
            taken.append(seconds + time.perf_counter() - started)
        return taken

    try:
        return {
            name: [seconds for _ in range(WALKS) for seconds in walk(schema_grammar(schema))]
            for name, schema in SCHEMAS.items()
        }
    finally:
        grammars.close()


def speeds(path: Path, threads: int) -> dict[str, float]:
    """Return the tokens per second of whole answers on ctransformers with a cached prompt: the best of RUNS."""
    model = GGUFModel(path, engine="ctransformers", context_length=CONTEXT, threads=threads, parallel=1)

    async def speed(grammar: Grammar | None) -> float:
        free = SamplingParams(temperature=0, max_tokens=ANSWER, ignore_eos=True)
        params = SamplingParams(temperature=0, grammar=grammar) if grammar else free
        started = time.perf_counter()
        async for delta in model.complete("Eight numbers:", params):
            tokens = delta.completion_tokens
        return tokens / (time.perf_counter() - started)

    grammars = {"free text": None, "JSON with long keys": schema_grammar(SCHEMAS["long keys"])}
    try:
        for grammar in grammars.values():
            asyncio.run(speed(grammar))
        return {name: max(asyncio.run(speed(grammar)) for _ in range(RUNS)) for name, grammar in grammars.items()}
    finally:
        model.close()


def main() -> None:
    path = default_model(Path("models"))
    if path is None:
        sys.exit("the default model's package is not installed: use `make serve`")
    rows = [("one step, µs", "median", "99 of 100 under")]
    for name, seconds in steps(path).items():
        ordered = sorted(seconds)
        slow = ordered[int(len(ordered) * 0.99)]
        rows.append((name, f"{statistics.median(ordered) * 1e6:.0f}", f"{slow * 1e6:.0f}"))
    print("\n".join(aligned(rows, left=1)))
    print()
    rows_of_speeds = [("", "tokens/s"), *((name, f"{each:.0f}") for name, each in speeds(path, usable_cores()).items())]
    print("\n".join(aligned(rows_of_speeds, left=1)))


if __name__ == "__main__":
    main()
