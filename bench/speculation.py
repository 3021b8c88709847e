"""`python -m bench.speculation`: what guessing ahead (`SPECULATE=ngram-mod`) gains on five kinds of work.

Runs the default model as it was published. Each figure is measured on a model that was loaded for it: what
was guessed once would be known the next time.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.report import aligned
from bench.works import WORKS, Chat
from engine.threads import usable_cores
from model import GGUFModel, SamplingParams
from modelfile.source.default import packaged_model

RESULTS = Path(__file__).parent / "speculation.json"
CONTEXT = 1536  # tokens for each slot


@dataclass
class Run:
    """Some chats at the same time."""

    rate: float  # tokens per second of all together, their prompts apart
    accepted: int
    rejected: int


async def answer(model: GGUFModel, chat: Chat, tokens: int) -> tuple[int, int, int]:
    """Tokens, and right and wrong guesses, of a greedy answer."""
    counts = 0, 0, 0
    async for delta in model.chat(chat, SamplingParams(max_tokens=tokens, temperature=0)):
        counts = delta.completion_tokens, delta.accepted_tokens, delta.rejected_tokens
    return counts


def run(path: Path, chats: Sequence[Chat], tokens: int, **options: Any) -> Run:
    """Loads the model, evaluates the prompts, and then times the answers."""
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
    parser.add_argument("--tokens", type=int, default=128, help="of an answer at most (default: 128)")
    options = parser.parse_args()
    path = packaged_model()
    if path is None:
        parser.error("the default model is not installed: `make bench` does it")
    lines = [["work", "clients", "off, tokens/s", "ngram-mod", "ratio", "right / wrong guesses"]]
    figures = []
    for work, chats in WORKS.items():
        for clients in options.clients:
            off = run(path, chats[:clients], options.tokens)
            on = run(path, chats[:clients], options.tokens, speculate="ngram-mod")
            ratio = on.rate / off.rate
            figures.append(
                {
                    "work": work,
                    "clients": clients,
                    "off": off.rate,
                    "on": on.rate,
                    "right": on.accepted,
                    "wrong": on.rejected,
                }
            )
            lines.append(
                [
                    work,
                    str(clients),
                    f"{off.rate:.1f}",
                    f"{on.rate:.1f}",
                    f"{ratio:.2f}",
                    f"{on.accepted} / {on.rejected}",
                ]
            )
            RESULTS.write_text(
                json.dumps({"machine": machine(), "tokens": options.tokens, "figures": figures}, indent=1) + "\n"
            )
    print("\n".join(aligned(lines)))


if __name__ == "__main__":
    main()
