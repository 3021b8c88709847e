"""Deltas without an engine."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ggserve.generation import Delta, FinishReason, ScoredToken


def delta(text: str = "", reason: FinishReason | None = None, **fields: Any) -> Delta:
    return Delta(text, 5, 2, len(text), reason, **fields)


def score(text: str, logprob: float = -1.0, **fields: Any) -> ScoredToken:
    return ScoredToken(ord(text[0]), text.encode(), logprob, **fields)


class Stream:
    """A stream of some texts, and whether it was closed."""

    def __init__(self, *texts: str, error: Exception | None = None) -> None:
        self.texts, self.error = texts, error
        self.begun = self.closed = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        self.begun = True
        try:
            for text in self.texts:
                await asyncio.sleep(0)
                yield delta(text)
            if self.error:
                raise self.error
        finally:
            self.closed = True
