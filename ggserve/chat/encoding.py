"""A chat becomes token ids: the template's special tokens are tokens, a user's look-alikes stay text.

Before rendering, the first character of each look-alike in the messages and tools is replaced by a stand-in
that occurs nowhere else. After rendering, special tokens are found; only then do the stand-ins turn back.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ggserve.chat.template import ChatTemplate
from ggserve.errors import InvalidRequest
from ggserve.tokenizer.tokenizer import Tokenizer

# Code points that no text can mean anything by: Unicode's noncharacters first, then private use.
_STAND_INS = [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    begun: str = "",
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """Ids of a prompt, with the text that the answer has `begun` with. BOS is added where the model wants it and the
    template did not write it. TemplateError as from `ChatTemplate.render`."""
    used = set().union(*map(set, _strings([messages, tools, begun, dict(variables)])), *tokenizer.control_tokens)
    first_characters = sorted({text[0] for text in tokenizer.control_tokens})
    free = (code for code in _STAND_INS if chr(code) not in used)
    stand_ins = dict(zip(first_characters, free, strict=False))
    if len(stand_ins) < len(first_characters):
        raise InvalidRequest("The messages have every character that Unicode leaves for private use. Leave some out.")
    guard = _guard(tuple(tokenizer.control_tokens), stand_ins)
    text = template.render(
        _map_strings(messages, guard), tools=_map_strings(tools, guard), variables=_map_strings(dict(variables), guard)
    )
    text = with_beginning(text, guard(begun))
    return tokenizer.encode_prompt(text, stand_ins={code: char for char, code in stand_ins.items()})


def with_beginning(prompt: str, begun: str) -> str:
    """A chat's prompt with the text that the answer has begun with: what follows is no thought."""
    if begun and prompt.rstrip().endswith("<think>"):
        prompt += "\n</think>\n\n"
    return prompt + begun


def defused(value: Any, control_texts: Iterable[str]) -> Any:
    """`value` with an invisible U+2060 (word joiner) after the first character of each look-alike in its strings: for
    a tokenizer that would make them special tokens."""
    looks_alike, _ = _look_alikes(tuple(control_texts))
    return _map_strings(value, lambda text: looks_alike.sub(lambda match: f"{match[0]}\u2060", text))


def text_length(value: Any) -> int:
    """Characters of all strings in `value`."""
    return sum(map(len, _strings(value)))


@lru_cache(maxsize=4)
def _look_alikes(control_texts: tuple[str, ...]) -> tuple[re.Pattern[str], set[str]]:
    any_text = "|".join(map(re.escape, control_texts)) or "(?!)"
    beginnings = {text[:length] for text in control_texts for length in range(1, len(text))}
    return re.compile(f"(?={any_text}).", re.DOTALL), beginnings


def _guard(control_texts: tuple[str, ...], stand_ins: dict[str, int]) -> Callable[[str], str]:
    """Replaces the first character of each control token's text, and of a beginning of one at the string's
    end (or before its trailing space, which templates strip): what follows could complete it."""
    looks_alike, beginnings = _look_alikes(control_texts)
    longest = max(map(len, beginnings), default=0)

    def replaced(text: str) -> str:
        text = looks_alike.sub(lambda match: chr(stand_ins[match[0]]), text)
        end = len(text.rstrip())
        for start in range(max(0, end - longest), len(text)):
            if text[start:] in beginnings or text[start:end] in beginnings:
                text = text[:start] + chr(stand_ins[text[start]]) + text[start + 1 :]
        return text

    return replaced


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if value.get("type") == "image_url":  # its data is no text
            return
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        if value.get("type") == "image_url":
            return value
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_strings(item, change) for item in value]
    return value
