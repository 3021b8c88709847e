"""Convert items to messages for chat templates."""

from collections.abc import Sequence
from typing import Any

import orjson

from ggserve.api.images import image_part, text_part
from ggserve.api.openai.responses.items import (
    CallItem,
    CallOutputItem,
    CustomCallItem,
    HostedItem,
    ImagePart,
    Item,
    MessageItem,
    ReasoningItem,
    ShellCallItem,
    function_name,
)


def chat_messages(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the messages of a chat. A tool call belongs to the assistant's message before it, reasoning to the message
    after it."""
    leading = [instructions] if instructions else []  # parts of the system message
    messages: list[dict[str, Any]] = []
    thought: dict[str, Any] = {}
    for item in items:
        match item:
            case ReasoningItem():
                thought = {"reasoning_content": item.text}
                continue
            case HostedItem():
                continue
            case MessageItem(role="assistant"):
                messages.append({"role": "assistant", "content": _content(item.content), **thought})
            case MessageItem(role="user"):
                messages.append({"role": "user", "content": _content(item.content)})
            case MessageItem():
                text = _text(item.content)
                if messages:
                    messages.append({"role": "system", "content": text})
                else:
                    leading.append(text)
            case CallItem() | CustomCallItem() | ShellCallItem():
                if thought or not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": "", **thought})
                name, arguments = _function_call(item)
                function = {"name": name, "arguments": arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            case CallOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        thought = {}
    return [*([{"role": "system", "content": "\n\n".join(leading)}] if leading else []), *messages]


def _function_call(item: CallItem | CustomCallItem | ShellCallItem) -> tuple[str, str]:
    """Return the name and the arguments of a tool call as the model wrote it."""
    match item:
        case CallItem():
            return function_name(item.name, item.namespace), item.arguments
        case CustomCallItem():
            return function_name(item.name, item.namespace), orjson.dumps({"input": item.input}).decode()
    return "local_shell", orjson.dumps(item.action).decode()


def _text(parts: Sequence[Any]) -> str:
    return "".join(part.text for part in parts if not isinstance(part, ImagePart))


def _content(parts: Sequence[Any]) -> str | list[dict[str, Any]]:
    """Return a text, or if there are images, content parts."""
    if not any(isinstance(part, ImagePart) for part in parts):
        return _text(parts)
    return [image_part(part.image_url or "") if isinstance(part, ImagePart) else text_part(part.text) for part in parts]
