"""A response of an ASGI app without HTTP: its head, then its body in as few pieces as possible without a visible
delay."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Scope

_PIECE_SECONDS = 0.1  # text that arrives within this time after the last piece travels as one piece


class Head(NamedTuple):
    """The status and headers of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes  # its first piece


def get_scope(path: str) -> Scope:
    """Return the ASGI scope of a `GET` that no client sent."""
    scope: Scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET"}
    return {**scope, "scheme": "http", "path": path, "query_string": b"", "headers": [(b"host", b"localhost")]}


async def respond(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Any, None]:
    """Yield the app's response to a request: its Head, then bytes. Closing the generator ends the app's work on it."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    unread: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # a client that disconnects ends all of this
        return unread.pop()

    async def run() -> None:
        try:
            await app(scope, receive, messages.put)
        finally:
            messages.put_nowait(None)

    running = asyncio.ensure_future(run())
    running.add_done_callback(lambda task: task.cancelled() or task.exception())  # the app has logged it
    try:
        if (start := await messages.get()) is None:
            raise ConnectionError("the app did not answer")
        async with aclosing(_pieces(messages)) as pieces:
            yield Head(start["status"], list(start["headers"]), await anext(pieces))
            async for piece in pieces:
                yield piece
    finally:
        running.cancel()


async def _pieces(messages: asyncio.Queue[Message | None]) -> AsyncGenerator[bytes, None]:
    """Yield the body. The first and the last piece leave at once."""
    sent, more = 0.0, True
    while more:
        batch = [await messages.get()]
        if batch[0] and batch[0].get("more_body"):
            await asyncio.sleep(sent + _PIECE_SECONDS - time.monotonic())
        while not messages.empty():
            batch.append(messages.get_nowait())
        if None in batch and all(message is None or message.get("more_body") for message in batch):
            raise ConnectionError("the app ended its response early")
        more = all(message and message.get("more_body") for message in batch)
        yield b"".join(message.get("body", b"") for message in batch if message)
        sent = time.monotonic()
