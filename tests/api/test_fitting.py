"""A chat that is too long loses its oldest turns, and no system message."""

import asyncio
from typing import Any

import pytest

from ggserve.api.fitting import fitting


class OneTokenAWord:
    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    async def count_chat(self, messages: list[dict[str, Any]], **others: Any) -> int:
        return sum(len(message["content"].split()) for message in messages)


@pytest.mark.parametrize(("context_length", "kept"), [(42, 4), (41, 3), (32, 3), (31, 2), (21, 1), (8, 1)])
def test_the_oldest_turns_go(context_length: int, kept: int) -> None:
    turns = [
        message
        for number in range(4)
        for message in (
            {"role": "user", "content": f"{number} " * 8},
            {"role": "assistant", "content": "yes " * 2},
        )
    ]
    chat = [{"role": "system", "content": "Help."}, *turns]
    model: Any = OneTokenAWord(context_length)
    assert asyncio.run(fitting(model, chat, None, 1)) == [chat[0], *turns[-2 * kept :]]
