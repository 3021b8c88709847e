"""Turns requests away before they cost anything when as many wait as may wait."""

from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import api_error
from engine.base import QueueFull

GENERATING = {"/v1/completions", "/v1/chat/completions", "/v2/chat/completions", "/v1/embeddings"}


class AdmissionMiddleware:
    """Answers 429 without reading the body: in a rush, reading it is what would take the time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING:
            engine = scope["app"].state.model.engine
            if engine.pool.full:
                await api_error(QueueFull(engine.pool.waiting)).response()(scope, receive, send)
                return
        await self.app(scope, receive, send)
