"""Streams of deltas: merged, guarded, begun, and left by the client."""

import asyncio
from collections.abc import AsyncGenerator

import orjson
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from ggserve.api.streaming import await_first, event, guarded, while_connected
from ggserve.errors import GenerationError
from tests.api.streams import Stream


def test_an_error_on_the_way_is_an_event_before_the_end() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event({"text": "a"})
        raise GenerationError("broke")

    async def collect() -> list[bytes]:
        return [item async for item in guarded(events())]

    first, error, done = asyncio.run(collect())
    assert first == b'data: {"text":"a"}\n\n'
    assert error.startswith(b"event: error\ndata: ")
    assert orjson.loads(error.partition(b"data: ")[2])["error"]["message"] == "broke"
    assert done == b"data: [DONE]\n\n"


def test_what_fails_before_the_first_delta_is_raised_and_closed() -> None:
    stream = Stream(error=GenerationError("at once"))

    async def start() -> None:
        await await_first(stream.deltas())

    with pytest.raises(GenerationError):
        asyncio.run(start())
    assert stream.closed


def test_a_client_that_leaves_cancels_the_work() -> None:
    cancelled = False

    async def work() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def leave() -> None:
        async def receive() -> dict[str, str]:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        await while_connected(Request({"type": "http"}, receive), work())

    with pytest.raises(ClientDisconnect):
        asyncio.run(leave())
    assert cancelled
