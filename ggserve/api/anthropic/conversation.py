"""Convert Anthropic's messages to the form of chat templates: OpenAI's roles, one message per tool result."""

from collections.abc import Iterable, Sequence
from itertools import dropwhile, groupby, takewhile
from operator import itemgetter
from typing import Any

import orjson

from ggserve.api.anthropic.schemas import (
    DocumentBlock,
    ImageBlock,
    Message,
    PromptRequest,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from ggserve.api.images import image_part, text_part

_BILLING = "x-anthropic-billing-header:"  # from Claude Code; it changes with each request and is not for the model


def conversation(request: PromptRequest) -> tuple[list[dict[str, Any]], str, str]:
    """Return the messages of a chat, and the text and the reasoning that its answer begins with, which come from a last
    message of the assistant."""
    system = [block.text for block in request.system if not block.text.startswith(_BILLING)]
    turns = list(dropwhile(_is_system, request.messages))
    system += [_text(turn.content) for turn in takewhile(_is_system, request.messages)]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    begun = thought = ""
    if turns and turns[-1].role == "assistant" and not any(isinstance(b, ToolUseBlock) for b in turns[-1].content):
        thought = _joined(block.thinking for block in turns[-1].content if isinstance(block, ThinkingBlock))
        begun = _text(turns.pop().content)
    converted = (message for turn in turns for message in (_assistant if turn.role == "assistant" else _user)(turn))
    for role, same in groupby(converted, key=itemgetter("role")):
        if role == "user":
            messages.append({"role": role, "content": _merged([message["content"] for message in same])})
        else:
            messages += same
    return messages, begun, thought


def _is_system(turn: Message) -> bool:
    return turn.role == "system"


def _assistant(turn: Message) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": _content(turn.content)}
    if thoughts := [block.thinking for block in turn.content if isinstance(block, ThinkingBlock)]:
        message["reasoning_content"] = _joined(thoughts)
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": orjson.dumps(block.input).decode()},
        }
        for block in turn.content
        if isinstance(block, ToolUseBlock)
    ]
    return [message | ({"tool_calls": calls} if calls else {})]


def _user(turn: Message) -> list[dict[str, Any]]:
    """Return the tool results, then the text as a user's message, whatever its role is, because few templates know
    other roles."""
    messages = [_tool_message(block) for block in turn.content if isinstance(block, ToolResultBlock)]
    if (content := _content(turn.content)) or not messages:
        messages.append({"role": "user", "content": content})
    return messages


def _content(blocks: Sequence[Any]) -> str | list[dict[str, Any]]:
    """Return a text, or if there are images, content parts in order."""
    if not any(isinstance(block, ImageBlock) for block in blocks):
        return _text(blocks)
    return [
        image_part(block.url) if isinstance(block, ImageBlock) else text_part(block.text)
        for block in blocks
        if isinstance(block, ImageBlock | TextBlock | DocumentBlock | SearchResultBlock)
    ]


def _merged(contents: Sequence[str | list[dict[str, Any]]]) -> str | list[dict[str, Any]]:
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) == len(contents):
        return _joined(texts)
    parts = [[text_part(content)] if isinstance(content, str) else content for content in contents if content]
    return [part for some in parts for part in some]


def _tool_message(block: ToolResultBlock) -> dict[str, Any]:
    content = _content(block.content)
    if block.is_error:
        content = _merged(["Error:", content]) if isinstance(content, list) else f"Error: {content}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _text(blocks: Sequence[Any]) -> str:
    return _joined(block.text for block in blocks if isinstance(block, TextBlock | DocumentBlock | SearchResultBlock))


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, texts))
