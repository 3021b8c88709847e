"""Deltas without an engine, and the responses that writers make of them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import Request

from ggserve.api.answers import Answers
from ggserve.api.streaming import EventStream, Writer, respond
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


def whole(writer: Writer, *deltas: Delta) -> dict[str, Any]:
    """Return the response that is not streamed."""
    response = asyncio.run(respond(staying(), Answers(_stream(deltas, None)), writer, stream=False))
    return orjson.loads(response.body)  # type: ignore[no-any-return]


def events(writer: Writer, *deltas: Delta, error: Exception | None = None) -> list[dict[str, Any]]:
    """Return the JSON objects of the streamed response; `error` ends it."""
    lines = stream(writer, *deltas, error=error).splitlines()
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith((b"data: {", b"{"))]


def stream(writer: Writer, *deltas: Delta, error: Exception | None = None) -> bytes:
    """Return the streamed response; `error` ends it."""

    async def collect() -> bytes:
        response = await respond(staying(), Answers(_stream(deltas, error)), writer, stream=True)
        assert isinstance(response, EventStream)
        return b"".join([piece async for piece in response.body_iterator])  # type: ignore[misc]

    return asyncio.run(collect())


async def _stream(deltas: tuple[Delta, ...], error: Exception | None) -> AsyncGenerator[Delta, None]:
    for item in deltas:
        yield item
    if error:
        raise error


def staying() -> Request:
    """Return the request of a client that does not disconnect."""

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http"}, receive)
