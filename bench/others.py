"""Other programs' use of the processor: a figure that was measured beside them means little, and is measured again."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psutil

MOST = 0.1  # cores that others may use
TRIES = 4
PATIENCE = 20.0  # seconds to wait until others rest, before each try

Result = TypeVar("Result")


class Others:
    """The cores that programs which this one has not started use on average, from its making on."""

    def __init__(self) -> None:
        self._started, self._total, self._own = time.monotonic(), _total(), _own()

    @property
    def cores(self) -> float:
        seconds = time.monotonic() - self._started
        return max(0.0, _total() - self._total - (_own() - self._own)) / seconds


def undisturbed(measure: Callable[[int], Result]) -> tuple[Result, float]:
    """What `measure(number of the try)` returns when others rest, or hardly disturb it; and the cores that they use."""
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
    """Seconds that all cores have computed."""
    times = psutil.cpu_times()
    return float(times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq")))


def _own() -> float:
    """Seconds that this process has computed, those that it has started, and those that leave it the cores."""
    this, seconds = psutil.Process(), 0.0
    own, nice = {this.pid, *(child.pid for child in this.children(recursive=True))}, this.nice()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid in own or process.nice() > nice:
                seconds += sum(process.cpu_times()[:4])  # user, system, and those of children that have ended
    return seconds
