"""Keeps texts of users, tools and documents from becoming control tokens.

Before a template is rendered, the first character of each look-alike is replaced by a stand-in that occurs nowhere
else. Control tokens are found after that, and only then do the stand-ins turn back.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ggserve.errors import InvalidRequest

# Code points without a meaning in text: Unicode's noncharacters first, then private use.
_STAND_INS = [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]
_WORD_JOINER = "\u2060"


class Guard:
    """The encoding of one vocabulary, by the texts of its control tokens."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        self._characters = set("".join(control_texts))
        self._firsts = sorted({text[0] for text in control_texts})
        self._look_alike = re.compile(f"(?={'|'.join(map(re.escape, control_texts)) or '(?!)'}).", re.DOTALL)
        self._beginnings = {text[:length] for text in control_texts for length in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    def stand_ins(self, values: Any) -> tuple[Mapping[int, str], Callable[[Any], Any]]:
        """Return stand-ins for a request's values (JSON), and a function that puts them into values. The mapping, as
        for `str.translate`, turns them back. Raises InvalidRequest if too few characters are left."""
        used = self._characters.union(*map(set, _strings(values)))
        free = (code for code in _STAND_INS if chr(code) not in used)
        stand_ins = dict(zip(self._firsts, free, strict=False))
        if len(stand_ins) < len(self._firsts):
            raise InvalidRequest("The messages use every private-use character of Unicode. Leave some out.")
        replaced = self._replacing(stand_ins)
        return {code: char for char, code in stand_ins.items()}, lambda value: _map_strings(value, replaced)

    def again(self, stand_ins: Mapping[int, str]) -> Callable[[str], str]:
        """Put the stand-ins from `stand_ins` into another text."""
        return self._replacing({char: code for code, char in stand_ins.items()})

    def _replacing(self, stand_ins: Mapping[str, int]) -> Callable[[str], str]:
        """Replace the first character of each control token's text, and of a beginning of one at the end of the string
        (or before its trailing space, which templates strip), because the following text could complete it."""

        def replaced(text: str) -> str:
            text = self._look_alike.sub(lambda match: chr(stand_ins[match[0]]), text)
            end = len(text.rstrip())
            for start in range(max(0, end - self._longest), len(text)):
                if text[start:] in self._beginnings or text[start:end] in self._beginnings:
                    text = text[:start] + chr(stand_ins[text[start]]) + text[start + 1 :]
            return text

        return replaced


def defused(text: str, stand_ins: Mapping[int, str]) -> str:
    """Return the text with an invisible U+2060 (word joiner) in each look-alike, for a tokenizer that would make
    control tokens of them."""
    return text.translate({code: char + _WORD_JOINER for code, char in stand_ins.items()})


def text_length(value: Any) -> int:
    """Return the characters of all strings in `value`."""
    return sum(map(len, _strings(value)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if value.get("type") == "image_url":  # its data is not text
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
