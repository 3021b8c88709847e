"""Turn answers into HTTP responses, complete or streamed: server-sent events, errors in mid-stream, and disconnected
clients.

A dialect's Writer formats its answers.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Send

from ggserve.api.answers import Answers, Piece
from ggserve.api.errors import APIError, api_error
from ggserve.api.prompts import progress_object
from ggserve.generation import Delta
from ggserve.prompt_progress import PromptProgress

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"  # a server-sent event that clients skip
PING = b'event: ping\ndata: {"type": "ping"}\n\n'  # Anthropic's keep-alive event

STATUS_SECONDS = 1.0  # for errors before a stream's first piece to become an HTTP status
_PROGRESS_SECONDS = 0.5  # between two reports of a prompt's progress
SILENT_SECONDS = 5.0  # clients give up after 60 to 300 seconds without a byte


def event(payload: dict[str, Any], name: str | None = None) -> bytes:
    """Return one server-sent event (WHATWG HTML, section 9.2) with a JSON payload."""
    head = b"event: %s\n" % name.encode() if name else b""
    return b"%sdata: %s\n\n" % (head, orjson.dumps(payload))


def is_keep_alive(events: bytes) -> bool:
    """Return whether events are only keep-alives."""
    return bool(events) and not events.replace(COMMENT, b"").replace(PING, b"")


class EventStream(StreamingResponse):
    """Sends the events of a generator, and closes it whatever happens."""

    media_type = "text/event-stream"
    RESPONSES: ClassVar[dict[int | str, dict[str, Any]]] = {  # of routes that can stream
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


@dataclass(frozen=True)
class Waiting:
    """The output of a stream while its model is loading."""

    keep_alive: bytes = COMMENT
    fail: Callable[[bytes], bytes] = lambda body: b"event: error\ndata: %s\n\n" % body + DONE  # from an error's body
    media_type: str = EventStream.media_type


class Writer(ABC):
    """A dialect's format for answers."""

    media_type = EventStream.media_type
    keep_alive: bytes | None = COMMENT  # sent while a request waits in the queue or its prompt is evaluated
    prompts: Sequence[PromptProgress] | None = None  # prompts whose progress the stream reports before the answer

    @abstractmethod
    def piece(self, piece: Piece) -> Iterable[bytes]:
        """Return what a delta adds to the stream."""

    @abstractmethod
    def whole(self, answers: Answers) -> Response:
        """Return the non-streamed response, once the answers are complete."""

    def progress(self, answers: Answers, progress: dict[str, int]) -> bytes:
        """Return the progress of the prompts; called only if the request can ask for it."""
        raise NotImplementedError

    def begin(self, answers: Answers, first: Delta) -> Iterable[bytes]:
        """Return what precedes the first delta."""
        return ()

    def end(self, answers: Answers) -> Iterable[bytes]:
        """Return what follows the last delta."""
        return ()

    def fail(self, error: APIError) -> Iterable[bytes]:
        """Return what ends a stream after an error."""
        return event(error.body, "error"), DONE

    def collect(self, piece: Piece) -> None:  # noqa: B027  # most writers need nothing more
        """Take from a delta what the non-streamed response needs besides the answer."""


async def respond(request: Request, answers: Answers, writer: Writer, *, stream: bool) -> Response:
    """Return the response with these answers, streamed or complete.

    An error before the first delta becomes an HTTP status. For a stream, that is only possible within a second: then
    the response begins, with a keep-alive every few seconds.
    """
    if stream:
        pieces = answers.streamed()
        first = asyncio.ensure_future(anext(pieces))
        try:
            await while_connected(request, asyncio.wait((first,), timeout=STATUS_SECONDS))
            if first.done():
                first.result()
        except BaseException:
            await _drop(first)
            await pieces.aclose()
            raise
        pause = SILENT_SECONDS if writer.prompts is None else _PROGRESS_SECONDS
        return EventStream(_written(_with_pauses(first, pieces, pause), answers, writer), writer.media_type)
    await while_connected(request, _collected(answers.streamed(), writer))
    return writer.whole(answers)


async def _with_pauses(
    first: "asyncio.Future[Piece]", others: AsyncGenerator[Piece, None], seconds: float
) -> AsyncGenerator[Piece | None, None]:
    """Yield the items, the first of which is already awaited; None whenever none has arrived for `seconds`."""
    async with aclosing(others):
        try:
            while not first.done():
                await asyncio.wait((first,), timeout=seconds)
                if not first.done():
                    yield None
            yield first.result()
        finally:
            await _drop(first)
        async for item in others:
            yield item


async def _drop(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    await asyncio.wait((task,))


async def _written(
    pieces: AsyncGenerator[Piece | None, None], answers: Answers, writer: Writer
) -> AsyncGenerator[bytes, None]:
    begun, told = False, progress_object(())
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if writer.prompts is not None and not begun and (now := progress_object(writer.prompts)) != told:
                    told = now
                    yield writer.progress(answers, now)
                elif piece is None and writer.keep_alive:
                    yield writer.keep_alive
                if piece is None:
                    continue
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


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`, which is cancelled if the client disconnects (ClientDisconnect)."""

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
        await asyncio.wait((working, leaving))  # so that the log includes what the work counts at its end


def json_response(payload: dict[str, Any] | Sequence[dict[str, Any]]) -> Response:
    return Response(orjson.dumps(payload), media_type="application/json")
