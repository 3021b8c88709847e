"""The size of a request's body, the time in which it must arrive, and the memory that all bodies may take."""

import asyncio
import gc
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of
from ggserve.machine import give_back_memory

_LARGE = 1 << 20  # bytes, after which memory is given back to the system


def _give_back() -> None:
    """Frees what only cycles hold (an error and the frames of its traceback), then returns memory to the system."""
    gc.collect()
    give_back_memory()


class BodyBudget:
    """The bytes of all bodies that the app holds at the same time."""

    def __init__(self, most: int, give_back: Callable[[], object] = _give_back) -> None:
        self.held = 0
        self._most = most
        self._give_back = give_back

    def take(self, count: int, held: int) -> None:
        """Take `count` more bytes for a body that holds `held`. Raises a 503 where there is no room beside others."""
        if self.held + count > self._most and self.held > held:
            detail = "The server holds as many requests' bodies as it may. Try again in a moment."
            raise HTTPException(503, detail, headers={"Retry-After": "1"})
        self.held += count

    def release(self, count: int) -> None:
        """A body of `count` bytes is gone."""
        self.held -= count
        if count > _LARGE:
            loop = asyncio.get_running_loop()
            for seconds in (0.0,) if self.held else (0.0, 1.0):  # the request's task refers to its body a bit longer
                loop.call_later(seconds, lambda: loop.run_in_executor(None, self._give_back))  # it takes a while


class BodyLimitsMiddleware(HTTPMiddleware):
    """Raises a 413 or a 408 where the body is read that breaks the app's limits."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        limits, budget = state.limits, state.bodies
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
            size = len(message.get("body", b""))
            if received + size > limits.body_bytes:
                detail = f"The request is larger than {limits.body_bytes >> 20} MiB."
                raise HTTPException(413, detail, headers={"Connection": "close"})
            budget.take(size, received)
            received += size
            return message

        try:
            await self._app(scope, limited_receive, send)
        finally:
            budget.release(received)
