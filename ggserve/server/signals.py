"""Signals: running answers may end while the server stops."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

DRAIN_SECONDS = 10.0  # seconds for running answers to end when the server stops

_LAST_WORDS = 2.0  # seconds for the end of an answer to reach its client
# seconds within which signals count as one: a terminal or a service manager may send it to parent and child
_SAME = 0.25


def running_server() -> uvicorn.Server | None:
    """Return the uvicorn server that runs this app; None if something else does, or outside the main thread."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


@contextmanager
def graceful_stop(close: Callable[[], None]) -> Iterator[None]:
    """Let running answers end on SIGINT or SIGTERM.

    uvicorn stops accepting requests, and running answers get DRAIN_SECONDS to end. A second signal ends them at once,
    with an error of their own, and cuts connections whose client does not read. Also keeps uvicorn from raising the
    signal again at the end, so that the exit code is 0.
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
