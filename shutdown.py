"""Signals: letting running answers end while the server stops."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

DRAIN_SECONDS = 10.0  # that running answers get to end when the server stops


def running_server() -> uvicorn.Server | None:
    """The uvicorn that runs this app; None where something else does, or not in the main thread."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


@contextmanager
def graceful_stop(close: Callable[[], None]) -> Iterator[None]:
    """On SIGINT or SIGTERM uvicorn takes no new requests; here running answers get DRAIN_SECONDS to end.

    Also keeps uvicorn from raising the signal again once all is done, so that the exit code is 0.
    """
    if (server := running_server()) is None:
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
