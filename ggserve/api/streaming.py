"""Deltas to HTTP: server-sent events, errors on the way, and clients that leave."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Send

from ggserve.api.errors import api_error

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


async def guarded(events: AsyncGenerator[bytes, None], done: bytes = DONE) -> AsyncGenerator[bytes, None]:
    """The events, then `done`; an error on the way becomes an `error` event first."""
    async with aclosing(events):
        try:
            async for item in events:
                yield item
        except Exception as error:
            yield event(api_error(error).body, "error")
        if done:
            yield done


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
