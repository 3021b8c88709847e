"""The spin time of llama.cpp's threads at barriers, which is reduced while other programs use the cores.

A token takes about a thousand barriers. Threads that sleep at a barrier wake up late. Threads that spin while another
program occupies the last thread's core waste the time that it needs. libgomp spins `GOMP_SPINCOUNT` rounds, but at most
1,000 while it manages more threads than there are cores. So a team of idle threads is kept in this process for three
seconds each time its threads have to wait for cores.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TASKS = "/proc/self/task"
_PERIOD = 0.2  # seconds between checks
_CROWDED = 0.67  # part of the time that threads could run and had no core; beside a program on each core it is 0.57
_BOUNDED = 3.0  # seconds of bounded spinning before the next check


@contextmanager
def idle_team() -> Iterator[None]:
    """Keep idle threads of libgomp in the block, so that it manages more threads than there are cores. Raises OSError
    if libgomp is not loaded."""
    libgomp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # every thread calls it with NULL
    end = threading.Event()

    def lead() -> None:
        libgomp.GOMP_parallel(nothing, None, len(os.sched_getaffinity(0)) + 1, 0)
        end.wait()  # libgomp ends a team together with the thread that leads it

    leader = threading.Thread(target=lead, name="idle team", daemon=True)
    leader.start()
    try:
        yield
    finally:
        end.set()
        leader.join()


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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests)
            before = computed_and_waited()
            time.sleep(_PERIOD)
            computed, waited = (now - then for now, then in zip(computed_and_waited(), before, strict=True))
            if waited > _CROWDED * (computed + waited):
                try:
                    with idle_team():
                        time.sleep(_BOUNDED)
                except OSError:
                    return
                # Only threads that spin tell whether the cores are free: those that sleep wait for one at each barrier.


def computed_and_waited() -> tuple[int, int]:
    """Return the nanoseconds that this process's threads have run, and those that they were ready and had no core; 0 if
    the system does not report it."""
    computed = waited = 0
    with suppress(OSError):
        for task in os.listdir(_TASKS):
            with suppress(OSError), open(f"{_TASKS}/{task}/schedstat") as file:
                run, delay, _ = file.read().split()
            computed, waited = computed + int(run), waited + int(delay)
    return computed, waited


SPINNING = Spinning()
