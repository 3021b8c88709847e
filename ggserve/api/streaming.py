"""Answers to HTTP responses, whole or streamed: server-sent events, errors on the way, and clients that leave.

A dialect's Writer says how its answers look.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Send

from ggserve.api.answers import Answers, Piece
from ggserve.api.errors import APIError, api_error
from ggserve.generation import Delta

Result = TypeVar("Result")
Item = TypeVar("Item")

DONE = b"data: [DONE]\n\n"


def event(payload: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2) with a JSON payload."""
    head = b"event: %s\n" % name.encode() if name else b""
    return b"%sdata: %s\n\n" % (head, orjson.dumps(payload))


class EventStream(StreamingResponse):
    """Sends the events of a generator, and closes it whatever happens."""

    media_type = "text/event-stream"
    RESPONSES: ClassVar[dict[int | str, dict[str, Any]]] = {  # of routes that stream when asked to
        200: {"content": {media_type: {}}, "description": "The answer."}
    }

    def __init__(self, events: AsyncGenerator[bytes, None], media_type: str | None = None) -> None:
        super().__init__(
            events, media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)


class Writer(ABC):
    """The way in which a dialect writes answers."""

    media_type = EventStream.media_type

    @abstractmethod
    def piece(self, piece: Piece) -> Iterable[bytes]:
        """What a delta adds to the stream."""

    @abstractmethod
    def whole(self, answers: Answers) -> Response:
        """The response that is not streamed, once the answers are complete."""

    def begin(self, answers: Answers, first: Delta) -> Iterable[bytes]:
        """What comes before the first delta."""
        return ()

    def end(self, answers: Answers) -> Iterable[bytes]:
        """What comes after the last delta."""
        return ()

    def fail(self, error: APIError) -> Iterable[bytes]:
        """What ends a stream that breaks."""
        return event(error.body, "error"), DONE

    def collect(self, piece: Piece) -> None:  # noqa: B027  # most writers need nothing more
        """Take from a delta what the whole response needs besides the answer."""


async def respond(request: Request, answers: Answers, writer: Writer, *, stream: bool) -> Response:
    """The response with these answers, streamed or whole. What fails before the first delta has its own HTTP status."""
    if stream:
        pieces = await while_connected(request, await_first(answers.streamed()))
        return EventStream(_written(pieces, answers, writer), writer.media_type)
    await while_connected(request, _collected(answers.streamed(), writer))
    return writer.whole(answers)


async def _written(
    pieces: AsyncGenerator[Piece, None], answers: Answers, writer: Writer
) -> AsyncGenerator[bytes, None]:
    begun = False
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if not begun:
                    begun = True
                    for item in writer.begin(answers, piece.delta):
                        yield item
                for item in writer.piece(piece):
                    yield item
        last = writer.end(answers)
    except Exception as error:
        last = writer.fail(api_error(error))
    for item in last:
        yield item


async def _collected(pieces: AsyncGenerator[Piece, None], writer: Writer) -> None:
    async with aclosing(pieces):
        async for piece in pieces:
            writer.collect(piece)


async def await_first(items: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
    """The same items, once the first has come: what fails before it still gets its own HTTP status."""
    try:
        first = await anext(items)
    except BaseException:
        await items.aclose()
        raise

    async def all_items() -> AsyncGenerator[Item, None]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return all_items()


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves (ClientDisconnect)."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working, leaving))  # what the work counts at its end is in the log then


def json_response(payload: dict[str, Any]) -> Response:
    return Response(orjson.dumps(payload), media_type="application/json")
