"""Turns requests away before they cost anything when there is no room for them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import api_error
from engine.base import Line, QueueFull

GENERATING = {"/v1/completions", "/v1/chat/completions", "/v2/chat/completions", "/v1/embeddings"}


class AdmissionMiddleware:
    """Answers 429 without reading the body: in a rush, reading it is what would take the time.

    Those that were read and are on their way to the line count too, or hundreds that come at the same moment would
    all pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._unanswered = 0  # read, without the beginning of an answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in GENERATING:
            await self.app(scope, receive, send)
            return
        pool: Line = scope["app"].state.model.engine.pool
        if pool.full or self._unanswered >= pool.capacity:
            await api_error(QueueFull(max(pool.waiting, self._unanswered))).response()(scope, receive, send)
            return
        counted = False

        def count(now: bool) -> None:
            nonlocal counted
            self._unanswered += now - counted
            counted = now

        async def counting_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                count(True)
            return message

        async def counting_send(message: Message) -> None:
            count(False)
            await send(message)

        try:
            await self.app(scope, counting_receive, counting_send)
        finally:
            count(False)
