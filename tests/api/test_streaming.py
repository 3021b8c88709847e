"""Streams of deltas: merged, guarded, begun, and left by the client."""

import asyncio
from collections.abc import AsyncGenerator, Iterator

import orjson
import pytest
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from ggserve.api import streaming
from ggserve.api.answers import Answers, Piece
from ggserve.api.streaming import (
    COMMENT,
    EventStream,
    Writer,
    event,
    is_keep_alive,
    json_response,
    respond,
    while_connected,
)
from ggserve.errors import GenerationError
from ggserve.generation import Delta
from tests.api.streams import Stream, delta, staying, stream


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
    failing = Stream(error=GenerationError("at once"))
    with pytest.raises(GenerationError):
        asyncio.run(respond(staying(), Answers(failing.deltas()), Texts(), stream=True))
    assert failing.closed


class Late:
    """A stream whose first delta comes after the response has waited `turns` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: int, error: Exception | None = None) -> None:
        monkeypatch.setattr(streaming, "STATUS_SECONDS", 0.0)
        monkeypatch.setattr(streaming, "SILENT_SECONDS", 0.0)
        self.error = error
        self.waiting, self.closed = turns, False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            while self.waiting:
                await asyncio.sleep(0)
            if self.error:
                raise self.error
            yield delta("late", "stop")
        finally:
            self.closed = True

    async def read(self, writer: Writer) -> list[bytes]:
        response = await respond(staying(), Answers(self.deltas()), writer, stream=True)
        assert isinstance(response, EventStream)
        pieces = []
        async for piece in response.body_iterator:
            pieces.append(piece)
            self.waiting = max(0, self.waiting - 1)
        return pieces  # type: ignore[return-value]


def test_a_late_answer_begins_with_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = asyncio.run(Late(monkeypatch, 3).read(Texts()))
    assert pieces[:3] == [COMMENT] * 3
    assert [piece for piece in pieces if not is_keep_alive(piece)] == [b'data: {"text":"late"}\n\n']


def test_a_late_error_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, 2, GenerationError("broke"))
    pieces = asyncio.run(late.read(Texts()))
    assert pieces[0] == COMMENT
    assert b"event: error" in b"".join(pieces)
    assert late.closed


def test_a_client_that_leaves_a_late_answer_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch, 1000)

    async def leave() -> None:
        response = await respond(staying(), Answers(late.deltas()), Texts(), stream=True)
        assert isinstance(response, EventStream)
        assert await anext(response.body_iterator) == COMMENT  # type: ignore[call-overload]
        await response.body_iterator.aclose()  # type: ignore[union-attr]

    asyncio.run(leave())
    assert late.closed


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
