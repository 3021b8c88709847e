"""Streams of deltas: merged, guarded, begun, and left by the client."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from api.streaming import event, guarded, merged, started, while_connected
from engine.contract import Delta
from engine.errors import GenerationError


def delta(text: str, reason: Any = None) -> Delta:
    return Delta(text, 1, 0, 1, reason)


class Stream:
    """Deltas of some texts, and whether it was closed."""

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


def test_merged_keeps_the_order_within_each_answer_and_runs_no_more_than_it_may() -> None:
    streams = [Stream(*(f"{index}{piece}" for piece in "abc")) for index in range(5)]
    running: list[int] = []

    async def collect() -> dict[int, str]:
        texts: dict[int, str] = {}
        async for index, piece in merged([stream.deltas() for stream in streams], at_once=2):
            running.append(sum(stream.begun and not stream.closed for stream in streams))
            texts[index] = texts.get(index, "") + piece.text
        return texts

    assert asyncio.run(collect()) == {index: f"{index}a{index}b{index}c" for index in range(5)}
    assert max(running) <= 2


def test_merged_ends_all_with_the_first_error() -> None:
    streams = [Stream(*"abcdef"), Stream("a", error=GenerationError("no more"))]

    async def collect() -> None:
        async for _ in merged([stream.deltas() for stream in streams], at_once=2):
            pass

    with pytest.raises(GenerationError, match="no more"):
        asyncio.run(collect())
    assert all(stream.closed for stream in streams)


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
        await started(stream.deltas())

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
