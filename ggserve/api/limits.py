"""Limits of one request: bytes, prompts, seconds."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from ggserve.api.errors import APIError
from ggserve.generation import Delta


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one request. 0 seconds means no limit."""

    body_bytes: int
    body_seconds: float  # until the body has arrived
    first_token_seconds: float  # since the beginning of the request
    request_seconds: float  # until the answer is complete
    prompts: int

    def check_prompts(self, count: int) -> None:
        """Raise a 400 if a request has too many prompts."""
        if count > self.prompts:
            raise APIError(400, f"The request has {count} prompts; at most {self.prompts} are allowed.", param="prompt")


async def with_time_limits(
    deltas: AsyncGenerator[Delta, None], limits: Limits, started: float, has_begun: Callable[[], bool]
) -> AsyncGenerator[Delta, None]:
    """Yield the same deltas until the request's time is over, which raises a 503. `started` is from
    `time.perf_counter`; `has_begun` returns whether the request has its first token, from this stream or another."""
    loop = asyncio.get_running_loop()
    offset = loop.time() - time.perf_counter() + started
    async with aclosing(deltas):
        while True:
            first = not has_begun() and limits.first_token_seconds > 0
            seconds = [limits.request_seconds] if limits.request_seconds else []
            seconds += [limits.first_token_seconds] if first else []
            try:
                async with asyncio.timeout_at(offset + min(seconds) if seconds else None):
                    delta = await anext(deltas)
            except StopAsyncIteration:
                return
            except TimeoutError:
                what = "had no token" if first and min(seconds) < limits.request_seconds else "was not complete"
                raise APIError(
                    503, f"The answer {what} after {min(seconds):g} seconds.", type="server_error", code="timeout"
                ) from None
            yield delta
