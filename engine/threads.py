"""Shares the cores between evals. ggml's threads spin at barriers: more threads than cores costs a factor of 50."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ThreadBudget:
    """Gives each eval its share of `total` threads; those of all evals in flight never add up to more.

    A lone request gets them all; when more come, each gets an equal share from its next eval on. With more
    requests than threads, evals of one thread each take turns, first come, first served.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._requests = 0
        self._in_use = 0
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request runs in this block, with evals now and then."""
        with self._changed:
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    @contextmanager
    def eval(self) -> Iterator[int]:
        """An eval runs in this block, with the given number of threads. Waits until they are free."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            while self._line[0] is not ticket or self._share() > self.total - self._in_use:
                self._changed.wait()
            self._line.popleft()
            threads = self._share()
            self._in_use += threads
            self._changed.notify_all()
        try:
            yield threads
        finally:
            with self._changed:
                self._in_use -= threads
                self._changed.notify_all()

    def _share(self) -> int:
        return max(1, self.total // max(1, self._requests))
