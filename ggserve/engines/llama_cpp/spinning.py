"""The spin time of llama.cpp's threads at barriers, which is reduced while other programs use the cores.

A token takes about a thousand barriers. Threads that sleep at a barrier wake up late. Threads that spin while another
program occupies the last thread's core waste the time that it needs. libgomp spins `GOMP_SPINCOUNT` rounds, but at most
1,000 while it manages more threads than there are cores. So a team of idle threads is kept in this process for as long
as its threads have to wait for cores.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TASKS = "/proc/self/task"
_PERIOD = 0.1  # seconds between checks
_CROWDED = 0.1  # seconds per second that this process's threads wait for a core
_CALM = 2.0  # seconds without such waits before they spin again


class IdleTeam:
    """Idle threads of libgomp, which make it manage more threads than there are cores."""

    def __init__(self) -> None:
        """Find libgomp. Raises OSError if it is not loaded."""
        self._libgomp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        self._nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # every thread calls it with NULL
        self._end = threading.Event()
        self._leader: threading.Thread | None = None

    def begin(self) -> None:
        """Start the threads, unless they are running."""
        if self._leader is None:
            self._end.clear()
            self._leader = threading.Thread(target=self._lead, name="idle team", daemon=True)
            self._leader.start()

    def end(self) -> None:
        """Stop the threads, if they are running."""
        if self._leader is not None:
            self._end.set()
            self._leader.join()
            self._leader = None

    def _lead(self) -> None:
        self._libgomp.GOMP_parallel(self._nothing, None, len(os.sched_getaffinity(0)) + 1, 0)
        self._end.wait()  # libgomp ends a team when its leading thread ends


class Spinning:
    """Limits spinning while requests run and wait for cores."""

    def __init__(self) -> None:
        self._requests = 0
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request that runs in this block."""
        with self._changed:
            self._requests += 1
            if self._watch is None and sys.platform == "linux":
                self._watch = threading.Thread(target=self._run, name="spinning", daemon=True)
                self._watch.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1

    def _run(self) -> None:
        try:
            team = IdleTeam()
        except OSError:
            return
        calm = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests)
            before = seconds_waited()
            time.sleep(_PERIOD)
            if seconds_waited() - before > _CROWDED * _PERIOD:
                calm = 0.0
                team.begin()
            elif (calm := calm + _PERIOD) > _CALM:
                team.end()


def seconds_waited() -> float:
    """Return the seconds that this process's threads were ready to run without a core; 0 if the system does not report
    it."""
    nanoseconds = 0
    with suppress(OSError):
        for task in os.listdir(_TASKS):
            with suppress(OSError), open(f"{_TASKS}/{task}/schedstat") as file:
                nanoseconds += int(file.read().split()[1])
    return nanoseconds / 1e9


SPINNING = Spinning()
