"""Texts that an answer must not contain: finds them as tokens arrive, and says how far to go back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ggserve.generation import SamplingParams, ScoredToken


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer in progress."""

    id: int
    piece: bytes  # the bytes that it adds to the text
    score: ScoredToken | None = None


class BannedStrings:
    """Holds back tokens whose text may be the start of a banned one. When the banned text is complete, the tokens are
    dropped from its beginning, and another token must be sampled there."""

    def __init__(self, params: SamplingParams) -> None:
        self._exact = [word.encode() for word in params.bad_words]
        self._folded = [_folded(word.encode()) for word in params.banned_strings]
        self._longest = max(map(len, (*self._exact, *self._folded)), default=0)
        self._held: list[Token] = []
        self._shown = b""  # the end of the text before them, which may belong to the start of a banned one
        self._place = 0  # index of the next token in the answer
        self._forbidden: dict[int, set[int]] = {}  # banned tokens, by place in the answer
        self._pattern = _pattern(params)

    @property
    def watches(self) -> bool:
        """Return whether there is anything to look for."""
        return bool(self._exact or self._folded)

    @property
    def forbidden(self) -> set[int]:
        """Return the tokens that must not come next."""
        return self._forbidden.get(self._place, set())

    def containing(self, pieces: Sequence[bytes]) -> set[int]:
        """Return the tokens that contain a banned text by themselves."""
        return {token for token, piece in enumerate(pieces) if self._pattern.search(piece)} if self.watches else set()

    def push(self, token: Token) -> tuple[list[Token], int]:
        """Take the next token; return the tokens that may be shown, and how many tokens, including this one, to go
        back."""
        if not self.watches:
            return [token], 0
        self._held.append(token)
        self._place += 1
        raw = self._shown + b"".join(each.piece for each in self._held)
        found = [at for text, words in self._texts(raw) for word in words if (at := text.find(word)) >= 0]
        if found:
            return [], self._drop(max(0, min(found) - len(self._shown)))
        held = max((_overlap(text, word) for text, words in self._texts(raw) for word in words), default=0)
        return self._release(len(raw) - len(self._shown) - held), 0

    def finish(self) -> list[Token]:
        """Return the tokens that are held back, when no more will arrive."""
        held, self._held = self._held, []
        return held

    def _texts(self, raw: bytes) -> tuple[tuple[bytes, list[bytes]], ...]:
        return ((raw, self._exact), (_folded(raw), self._folded)) if self._folded else ((raw, self._exact),)

    def _drop(self, at: int) -> int:
        """Drop the token that crosses byte `at`, and all that follow it."""
        kept = end = 0
        while (end := end + len(self._held[kept].piece)) <= at:
            kept += 1
        first, dropped = self._held[kept], len(self._held) - kept
        del self._held[kept:]
        self._place -= dropped
        self._forbidden = {place: ids for place, ids in self._forbidden.items() if place <= self._place}
        self._forbidden.setdefault(self._place, set()).add(first.id)
        return dropped

    def _release(self, size: int) -> list[Token]:
        """Return the tokens within the first bytes."""
        count = end = 0
        while count < len(self._held) and (end := end + len(self._held[count].piece)) <= size:
            count += 1
        released, self._held = self._held[:count], self._held[count:]
        if self._longest > 1:
            self._shown = (self._shown + b"".join(token.piece for token in released))[1 - self._longest :]
        return released


def _overlap(text: bytes, word: bytes) -> int:
    """Return the length of the longest end of a text that a word begins with."""
    return next((size for size in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:size])), 0)


def _folded(raw: bytes) -> bytes:
    """Return the text in lower case, with the same number of bytes."""
    chars = raw.decode("utf-8", "surrogateescape")
    return b"".join(small if len(small := _bytes(char.lower())) == len(own := _bytes(char)) else own for char in chars)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _pattern(params: SamplingParams) -> re.Pattern[bytes]:
    """Return a pattern for the pieces of tokens that contain a banned text."""
    words = [re.escape(word.encode()) for word in params.bad_words]
    words += [b"(?i:%s)" % re.escape(word.encode()) for word in params.banned_strings]
    return re.compile(b"|".join(words))
