"""The machine under the benchmark: its hardware, and whether other programs use it."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from ggserve.machine import usable_cores

Result = TypeVar("Result")

_DISTURBED = 0.1  # share of the processor's time used by others
_RETRIES = 2


def machine() -> str:
    """Return the processor, its usable cores, and the memory."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {usable_cores()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB"


def undisturbed(measure: Callable[[], Result]) -> Result:
    """Return `measure`'s result from the try with the least use by others."""
    best: tuple[float, Result] | None = None
    for _ in range(1 + _RETRIES):
        started, all_before, own_before = time.monotonic(), _busy_seconds(), _own_seconds()
        result = measure()
        others = _busy_seconds() - all_before - (_own_seconds() - own_before)
        share = others / (time.monotonic() - started) / (os.cpu_count() or 1)
        if best is None or share < best[0]:
            best = share, result
        if share < _DISTURBED:
            break
    assert best is not None
    return best[1]


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


def _own_seconds() -> float:
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))
