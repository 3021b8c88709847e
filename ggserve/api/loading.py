"""Streams whose model is loaded on demand: their responses begin before the model is there."""

import asyncio
from types import TracebackType

from starlette.types import Message, Scope, Send

from ggserve.api import streaming
from ggserve.api.streaming import Waiting


class SignsOfLife:
    """Begins the response of a stream that has been waiting for its model for a second (`request.state.waiting`), and
    sends a keep-alive every few seconds until the endpoint sends its own response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._waiting: Waiting | None = None  # once the response has begun
        self._error: bytes | None = None  # the body of a response that is an error
        self._sending = asyncio.Lock()

    async def __aenter__(self) -> "SignsOfLife":
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)  # a client that left is the endpoint's business

    async def send(self, message: Message) -> None:
        """Send what the endpoint sends, after what was sent before."""
        if not self._task.done():
            async with self._sending:  # no sign of life is cut in half
                self._task.cancel()
        if self._waiting is None:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._error = b"" if message["status"] >= 400 else None
        elif self._error is None:
            await self._send(message)
        else:
            self._error += message.get("body", b"")
            if not message.get("more_body"):
                await self._send({"type": "http.response.body", "body": self._waiting.fail(self._error)})

    async def _run(self) -> None:
        waiting: Waiting | None = None
        while waiting is None:
            await asyncio.sleep(streaming.STATUS_SECONDS)
            waiting = self._scope.get("state", {}).get("waiting")
        head = {"content-type": waiting.media_type, "cache-control": "no-cache", "x-accel-buffering": "no"}
        headers = [(name.encode(), value.encode()) for name, value in head.items()]
        async with self._sending:
            self._waiting = waiting
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            async with self._sending:
                await self._send({"type": "http.response.body", "body": waiting.keep_alive, "more_body": True})
            await asyncio.sleep(streaming.SILENT_SECONDS)
