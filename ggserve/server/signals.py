"""Signals: letting running answers end while the server stops."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

DRAIN_SECONDS = 10.0  # that running answers get to end when the server stops

_LAST_WORDS = 2.0  # seconds that the end of an ended answer gets to reach its client
_SAME = 0.25  # seconds within which signals are one: a terminal or a service manager may send it to parent and child


def running_server() -> uvicorn.Server | None:
    """The uvicorn that runs this app; None where something else does, or not in the main thread."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


@contextmanager
def graceful_stop(close: Callable[[], None]) -> Iterator[None]:
    """On SIGINT or SIGTERM uvicorn takes no new requests; here running answers get DRAIN_SECONDS to end. A second
    signal ends them at once, with an error of their own; connections whose client does not read are cut then.

    Also keeps uvicorn from raising the signal again once all is done, so that the exit code is 0.
    """
    if (server := running_server()) is None:
        yield
        return
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    stopped = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        now = time.monotonic()
        if stopped and now - stopped < _SAME:
            return
        seconds = 0.0 if stopped else DRAIN_SECONDS
        stopped = stopped or now
        server.should_exit = True
        loop.call_soon_threadsafe(end_after, seconds)

    def end_after(seconds: float) -> None:
        timers.append(loop.call_later(seconds, end))

    def end() -> None:
        close()
        timers.append(loop.call_later(_LAST_WORDS, abort))

    def abort() -> None:
        for connection in list(server.server_state.connections):
            connection.transport.abort()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    yield
    for timer in timers:
        timer.cancel()
