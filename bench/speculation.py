"""`python -m bench.speculation`: the gain of speculative decoding (`SPECULATE=ngram-mod`) on five kinds of work.

Runs the default model as it was published. Each figure is measured on a freshly loaded model, because a second run
would know the first one's texts.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bench.machine import machine, undisturbed
from bench.report import aligned
from bench.works import WORKS, Chat
from ggserve.hub.default import packaged_model
from ggserve.machine import usable_cores
from ggserve.model.gguf_model import GGUFModel, SamplingParams

RESULTS = Path(__file__).parent / "speculation.json"
CONTEXT = 1536  # tokens per slot


@dataclass
class Run:
    """Some concurrent chats."""

    rate: float  # tokens per second of all together, without their prompts
    accepted: int
    rejected: int


SETTINGS: tuple[Literal["off", "ngram-mod"], ...] = ("off", "ngram-mod")


async def answer(model: GGUFModel, chat: Chat, tokens: int) -> tuple[int, int, int]:
    """Return the tokens, and the right and wrong guesses, of a greedy answer."""
    counts = 0, 0, 0
    async for delta in model.chat(chat, SamplingParams(max_tokens=tokens, temperature=0)):
        counts = delta.completion_tokens, delta.accepted_tokens, delta.rejected_tokens
    return counts


def run(path: Path, chats: Sequence[Chat], tokens: int, **options: Any) -> Run:
    """Load the model, evaluate the prompts, and then time the answers."""
    model = GGUFModel(
        path, engine="llama.cpp", threads=usable_cores(), parallel=len(chats), context_length=CONTEXT, **options
    )

    async def together(most: int) -> list[tuple[int, int, int]]:
        return await asyncio.gather(*(answer(model, chat, most) for chat in chats))

    try:
        asyncio.run(together(1))
        started = time.perf_counter()
        made, accepted, rejected = map(sum, zip(*asyncio.run(together(tokens)), strict=True))
        return Run(made / (time.perf_counter() - started), accepted, rejected)
    finally:
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.speculation", description=__doc__)
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3, help="number of loads of each, in turns (default: 3)")
    parser.add_argument("--tokens", type=int, default=128, help="maximum tokens per answer (default: 128)")
    options = parser.parse_args()
    path = packaged_model()
    if path is None:
        parser.error("the default model is not installed: use `make bench`")
    lines = [["work", "clients", "off, tokens/s", "ngram-mod", "ratio", "right / wrong guesses"]]
    figures = []
    for work, chats in WORKS.items():
        for clients in options.clients:
            tries: dict[str, list[Run]] = {setting: [] for setting in SETTINGS}
            for number in range(options.rounds):
                for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                    measure = partial(run, path, chats[:clients], options.tokens, speculate=setting)
                    tries[setting].append(undisturbed(measure))
            off, on = (sorted(tries[setting], key=lambda each: each.rate)[options.rounds // 2] for setting in SETTINGS)
            figures.append({"work": work, "clients": clients, "off": asdict(off), "on": asdict(on)})
            guesses = f"{on.accepted} / {on.rejected}"
            lines.append(
                [work, str(clients), f"{off.rate:.1f}", f"{on.rate:.1f}", f"{on.rate / off.rate:.2f}", guesses]
            )
            print(*lines[-1], file=sys.stderr, flush=True)
            RESULTS.write_text(
                json.dumps({"machine": machine(), "tokens": options.tokens, "figures": figures}, indent=1) + "\n"
            )
    print("\n".join(aligned(lines)))


if __name__ == "__main__":
    main()
