"""Items as messages that chat templates expect; and what of a conversation fits the context."""

from collections.abc import Sequence
from typing import Any

from ggserve.api.openai.images import image_part, text_part
from ggserve.api.openai.responses.items import CallItem, CallOutputItem, ImagePart, Item, MessageItem, ReasoningItem
from ggserve.errors import ContextOverflow
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel

_ROOM = 256  # tokens for the answer, where nothing is said of its length


def chat_messages(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """The messages of a chat. A call belongs to the assistant's message before it, a thought to the one after it."""
    leading = [instructions] if instructions else []  # texts of the system message
    messages: list[dict[str, Any]] = []
    thought: dict[str, Any] = {}
    for item in items:
        match item:
            case ReasoningItem():
                thought = {"reasoning_content": "\n".join(part.text for part in item.content or item.summary)}
                continue
            case MessageItem(role="assistant"):
                messages.append({"role": "assistant", "content": _text(item.content), **thought})
            case MessageItem() if any(isinstance(part, ImagePart) for part in item.content):
                messages.append({"role": "user", "content": [_chat_part(part) for part in item.content]})
            case MessageItem():
                role, text = "user" if item.role == "user" else "system", _text(item.content)
                if role == "system" and not messages:
                    leading.append(text)
                else:
                    messages.append({"role": role, "content": text})
            case CallItem():
                if thought or not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": "", **thought})
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            case CallOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        thought = {}
    return [*([{"role": "system", "content": "\n\n".join(leading)}] if leading else []), *messages]


def _text(parts: Sequence[Any]) -> str:
    return "".join(part.text for part in parts)


def _chat_part(part: Any) -> dict[str, Any]:
    return image_part(part.image_url or "") if isinstance(part, ImagePart) else text_part(part.text)


async def fitting(
    model: GGUFModel, messages: list[dict[str, Any]], tools: Tools | None, max_tokens: int | None
) -> list[dict[str, Any]]:
    """The messages without the oldest turns, as many as must go so that the rest and an answer fit the context."""
    room = model.context_length - min(max_tokens or _ROOM, model.context_length // 4)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = [index for index, message in enumerate(messages) if message["role"] == "user"]
    first, last = 0, len(turns)  # the number of turns that may go
    while first < last:
        middle = (first + last) // 2
        if await _tokens(model, _without(messages, system, turns, middle), tools) <= room:
            last = middle
        else:
            first = middle + 1
    return _without(messages, system, turns, min(first, max(len(turns) - 1, 0)))


async def _tokens(model: GGUFModel, messages: list[dict[str, Any]], tools: Tools | None) -> int:
    try:
        return await model.count_chat(messages, tools=tools)
    except ContextOverflow as overflow:
        return overflow.prompt_tokens


def _without(
    messages: list[dict[str, Any]], system: list[dict[str, Any]], turns: list[int], dropped: int
) -> list[dict[str, Any]]:
    return [*system, *messages[turns[dropped] :]] if dropped else messages
