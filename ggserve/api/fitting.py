"""Cuts a conversation to fit the context."""

from collections.abc import Mapping, Sequence
from typing import Any

from ggserve.errors import ContextOverflow
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel

_ROOM = 256  # tokens for an answer without a given length


async def fitting(
    model: GGUFModel,
    messages: list[dict[str, Any]],
    tools: Tools | None,
    max_tokens: int | None,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the messages without the oldest turns that must go so that the rest and an answer fit into the context.
    System messages and the last turn stay."""
    room = model.context_length - min(max_tokens or _ROOM, model.context_length // 4)
    turns = [index for index, message in enumerate(messages) if message["role"] == "user"]

    async def fits(dropped: int) -> bool:
        try:
            kept = _without(messages, turns, dropped)
            return await model.count_chat(kept, tools=tools, template_arguments=template_arguments) <= room
        except ContextOverflow:
            return False

    if await fits(0):
        return messages
    first, last = min(1, len(turns)), len(turns)  # the number of turns that can go
    while first < last:
        middle = (first + last) // 2
        if await fits(middle):
            last = middle
        else:
            first = middle + 1
    return _without(messages, turns, min(first, max(len(turns) - 1, 0)))


def _without(messages: list[dict[str, Any]], turns: Sequence[int], dropped: int) -> list[dict[str, Any]]:
    if not dropped:
        return messages
    system = [message for message in messages[: turns[dropped]] if message["role"] == "system"]
    return [*system, *messages[turns[dropped] :]]
