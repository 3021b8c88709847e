"""Limits of request bodies: their size, the time to receive them, and the memory of all bodies together."""

import asyncio
import gc
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of
from ggserve.machine import give_back_memory

_LARGE = 1 << 20  # bytes; memory is returned to the system after a larger body


def _give_back() -> None:
    """Free reference cycles (an error and the frames of its traceback), then return memory to the system."""
    gc.collect()
    give_back_memory()


class BodyBudget:
    """The memory for all bodies that the app holds, in bytes."""

    def __init__(self, most: int, give_back: Callable[[], object] = _give_back) -> None:
        self.held = 0
        self._most = most
        self._give_back = give_back

    def take(self, count: int, held: int) -> None:
        """Take `count` more bytes for a body that holds `held`. Raises a 503 if the other bodies leave no room."""
        if self.held + count > self._most and self.held > held:
            detail = "The server has no memory left for request bodies. Try again in a moment."
            raise HTTPException(503, detail, headers={"Retry-After": "1"})
        self.held += count

    def release(self, count: int) -> None:
        """Release the `count` bytes of a body."""
        self.held -= count
        if count > _LARGE:
            loop = asyncio.get_running_loop()
            for seconds in (0.0,) if self.held else (0.0, 1.0):  # the request's task keeps its body a little longer
                loop.call_later(seconds, lambda: loop.run_in_executor(None, self._give_back))  # takes a while


class BodyLimitsMiddleware(HTTPMiddleware):
    """Raises a 413 or a 408 while the body is read if it breaks the app's limits."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        limits, budget = state.limits, state.bodies
        received, whole = 0, False
        deadline = asyncio.get_running_loop().time() + limits.body_seconds if limits.body_seconds else None

        async def limited_receive() -> Message:
            nonlocal received, whole
            if whole:  # the next message comes when the client disconnects
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"The request body was not complete after {limits.body_seconds:g} seconds."
                raise HTTPException(408, detail, headers={"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            size = len(message.get("body", b""))
            if received + size > limits.body_bytes:
                detail = f"The request body is larger than {limits.body_bytes >> 20} MiB."
                raise HTTPException(413, detail, headers={"Connection": "close"})
            budget.take(size, received)
            received += size
            return message

        try:
            await self._app(scope, limited_receive, send)
        finally:
            budget.release(received)
