"""Streams of deltas: merged, guarded, begun, and left by the client."""

import asyncio
from collections.abc import Iterator

import orjson
import pytest
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from ggserve.api.answers import Answers, Piece
from ggserve.api.streaming import Writer, await_first, event, json_response, while_connected
from ggserve.errors import GenerationError
from tests.api.streams import Stream, delta, stream


class Texts(Writer):
    """The texts alone."""

    def piece(self, piece: Piece) -> Iterator[bytes]:
        yield event({"text": piece.delta.text})

    def whole(self, answers: Answers) -> Response:
        return json_response({"text": answers.all[0].text})


def test_an_error_on_the_way_is_an_event_before_the_end() -> None:
    first, error, done = stream(Texts(), delta("a"), error=GenerationError("broke")).split(b"\n\n")[:-1]
    assert first == b'data: {"text":"a"}'
    assert error.startswith(b"event: error\ndata: ")
    assert orjson.loads(error.partition(b"data: ")[2])["error"]["message"] == "broke"
    assert done == b"data: [DONE]"


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
