"""The stack of the threads in which llama.cpp tokenizes.

Its pre-tokenizers are regular expressions of libstdc++, which recurses for each character of a match (up to 400 bytes
of stack each): a long word overflows the stack and ends the process. So texts with such words are rejected, and the
threads get a stack that is large enough for shorter ones.
"""

import ctypes
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ggserve.errors import InvalidRequest
from ggserve.tokenizer.vocabulary import Metadata

LONGEST_WORD = 10_000
"""Characters. A text that is refused has a word of at least half as many."""

_STACK = 64 << 20  # bytes
_ATTRIBUTES = 64  # bytes of a pthread_attr_t: 56 on x86-64, 64 on arm64
_WINDOW = LONGEST_WORD // 2
_MARKS = r"\u2000-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20"  # punctuation outside ASCII
_WORD = re.compile(rf"(?:(?![\s{_MARKS}])[A-Za-z\x80-\U0010ffff])+|\d+|\s+|(?:(?!\s)[{_MARKS}\x00-/:-@\[-`{{-\x7f])+")
_SPLIT = ("gpt2", "hybriddna", "whitespace")  # types of vocabularies that a pre-tokenizer splits texts for
# Pre-tokenizers whose words may contain characters of several kinds.
_WIDE = {
    "bloom": re.compile(r"\S+|\s+"),
    "poro-chat": re.compile(r"\S+|\s+"),
    "gpt3-finnish": re.compile(r"\S+|\s+"),
    "viking": re.compile(r"\S+|\s+"),
    "whitespace": re.compile(r"\S+|\s+"),
    "exaone-moe": re.compile(r"[^\r\n]+|[\r\n]+"),
}


class WordLimit:
    """Rejects texts that the pre-tokenizer of that name (`tokenizer.ggml.pre`) might read as one long word."""

    @classmethod
    def of(cls, metadata: Metadata) -> "WordLimit | None":
        """Return the limit for a model's vocabulary; None if its type has no pre-tokenizer."""
        return cls(metadata.get("tokenizer.ggml.pre")) if metadata.get("tokenizer.ggml.model") in _SPLIT else None

    def __init__(self, pretokenizer: str | None) -> None:
        self._word = _WIDE.get(pretokenizer or "", _WORD)

    def check(self, value: Any) -> None:
        """Raise InvalidRequest if a string in `value`, however deep, has a word that is too long."""
        if any(map(self._too_long, _strings(value))):
            raise InvalidRequest(
                f"A text has more than {_WINDOW} letters, digits, spaces or other characters of one kind in a row, "
                "which llama.cpp's tokenizer cannot handle. Break them up."
            )

    def _too_long(self, text: str) -> bool:
        # A word of twice the window's length contains one of these windows whole, so each is examined once.
        windows = range(0, len(text) - _WINDOW + 1, _WINDOW)
        return any(self._word.fullmatch(text, start, start + _WINDOW) for start in windows)


def widen_stacks() -> None:
    """Give threads that start from now on a large stack, if the C library (glibc) lets us set the default. Pages that
    are never touched take no memory."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "pthread_setattr_default_np"):
        return
    attributes = ctypes.create_string_buffer(_ATTRIBUTES)
    if libc.pthread_getattr_default_np(attributes) == 0:
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK))
        libc.pthread_setattr_default_np(attributes)
        libc.pthread_attr_destroy(attributes)


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of a JSON value, except those of images."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            if value.get("type") != "image_url":
                values += value
                values += value.values()
        elif isinstance(value, list | tuple):
            values += value
