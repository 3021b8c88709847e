"""The CPU use of other programs: a figure that was measured next to them means little, and is measured again."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

MOST = 0.1  # cores that other programs may use
TRIES = 4
PATIENCE = 20.0  # seconds to wait for other programs to finish, before each try

Result = TypeVar("Result")


class Others:
    """The average number of cores used by programs that this process has not started, since its creation."""

    def __init__(self) -> None:
        self._started, self._total, self._own = time.monotonic(), _total(), _own()

    @property
    def cores(self) -> float:
        seconds = time.monotonic() - self._started
        return max(0.0, _total() - self._total - (_own() - self._own)) / seconds


def undisturbed(measure: Callable[[int], Result]) -> tuple[Result, float]:
    """Return `measure(attempt)` from a try with little use by others, or else the least disturbed one, and the cores
    that others used."""
    best: tuple[Result, float] | None = None
    for attempt in range(TRIES):
        _wait()
        others = Others()
        result = measure(attempt)
        cores = others.cores
        if best is None or cores < best[1]:
            best = result, cores
        if cores <= MOST:
            break
    assert best is not None
    return best


def _wait() -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        others = Others()
        time.sleep(0.3)
        if others.cores <= MOST:
            return


def _total() -> float:
    """Return the CPU seconds of all cores."""
    times = psutil.cpu_times()
    return float(times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq")))


def _own() -> float:
    """Return the CPU seconds of this process, its children, and those that leave it the cores."""
    this, seconds = psutil.Process(), 0.0
    own, nice = {this.pid, *(child.pid for child in this.children(recursive=True))}, this.nice()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid in own or process.nice() > nice:
                seconds += sum(process.cpu_times()[:4])  # user, system, and those of children that have ended
    return seconds
