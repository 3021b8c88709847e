"""The limits that end a middle, besides its tokens."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ggserve.api.llama_server.infill import limited
from ggserve.generation import Delta


async def pieces(texts: list[str]) -> AsyncGenerator[Delta, None]:
    for number, text in enumerate(texts, 1):
        yield Delta(text, 5, 0, number, "stop" if number == len(texts) else None)


def taken(texts: list[str], indent: int = 0, seconds: float = 0) -> tuple[str, str | None, int]:
    async def collected() -> list[Delta]:
        return [delta async for delta in limited(pieces(texts), indent, seconds)]

    deltas = asyncio.run(collected())
    return "".join(delta.text for delta in deltas), deltas[-1].finish_reason, len(deltas)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("text", "indent", "kept", "reason"),
    [
        ("a\n    b\n  c\nd", 0, "a\n    b\n  c\nd", "stop"),
        ("a\n    b\n  c\nd", 2, "a\n    b\n  c\n", "length"),
        ("a\n    b\n  c\nd", 4, "a\n    b\n  ", "length"),
        ("a\n\t\tb\n\tc", 2, "a\n\t\tb\n\t", "length"),
        ("a\n\n  b", 1, "a\n", "length"),
        ("a\n  b\n ", 2, "a\n  b\n ", "stop"),
        ("a", 8, "a", "stop"),
    ],
)
def test_a_line_that_is_indented_less_ends_it(text: str, indent: int, kept: str, reason: str, split: bool):
    texts = list(text) if split else [text]
    assert taken(texts, indent)[:2] == (kept, reason)


def test_time_ends_it_once_there_is_a_line_break():
    texts = ["a", "b", "\n", "c", "d"]
    assert taken(texts, seconds=1e-9) == ("ab\n", "length", 3)
    assert taken(texts, seconds=60) == ("ab\ncd", "stop", 5)
    assert taken(["a", "b"], seconds=1e-9) == ("ab", "stop", 2)
