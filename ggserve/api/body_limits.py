"""The size of a request's body, and the time in which it must arrive."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ggserve.api.state import state_of
from ggserve.machine import give_back_memory

_LARGE = 1 << 20  # bytes, after which memory is given back to the system


class BodyLimitsMiddleware:
    """Raises a 413 or a 408 where the body is read that breaks the app's limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = state_of(scope).limits
        received, whole = 0, False
        deadline = asyncio.get_running_loop().time() + limits.body_seconds if limits.body_seconds else None

        async def limited_receive() -> Message:
            nonlocal received, whole
            if whole:  # the next message is that the client left, whenever that is
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"The request was not complete after {limits.body_seconds:g} seconds."
                raise HTTPException(408, detail, headers={"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limits.body_bytes:
                detail = f"The request is larger than {limits.body_bytes >> 20} MiB."
                raise HTTPException(413, detail, headers={"Connection": "close"})
            return message

        try:
            await self._app(scope, limited_receive, send)
        finally:
            if received > _LARGE:
                give_back_memory()
