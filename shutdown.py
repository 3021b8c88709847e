"""Signals: letting running answers end while the server stops."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

DRAIN_SECONDS = 10.0  # that running answers get to end when the server stops


@contextmanager
def graceful_stop(close: Callable[[], None]) -> Iterator[None]:
    """On SIGINT or SIGTERM uvicorn takes no new requests; here running answers get DRAIN_SECONDS to end.

    Also keeps uvicorn from raising the signal again once all is done, so that the exit code is 0.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):
        yield
        return
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True
        loop.call_soon_threadsafe(lambda: timers.append(loop.call_later(DRAIN_SECONDS, close)))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    yield
    for timer in timers:
        timer.cancel()
