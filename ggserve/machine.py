"""The part of the machine that this process may use: cores and memory."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_DEVICES = Path("/sys/devices")
_GPU_NODES = ("nvidiactl", "nvidia0", "kfd", "dri/renderD128", "dxg")  # in /dev: NVIDIA, AMD, any with Mesa, WSL


@dataclass(frozen=True, slots=True)
class Hardware:
    """The engine and hardware that a model runs on."""

    build: str  # the engine with its version
    devices: tuple[str, ...] = ()  # the GPUs that it uses, one line each
    layers: str | None = None  # the part of the model that is on the GPUs
    fallback: str | None = None  # the reason why less of it is on the GPUs than should be


def may_have_gpu() -> bool:
    """Return whether this machine has a GPU's device node: a cheap test before GPU libraries are loaded."""
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in _GPU_NODES)


def usable_cores() -> int:
    """Return the number of physical cores that this process may use: only the fast ones of two kinds, and no more than
    the CPU limit of its container or service.

    ggml's threads share each matrix evenly and wait for the slowest thread, which is one that shares a core or has a
    slow one.
    """
    shares = []
    for folder in _group_folders("cpu"):
        quota, period = _text(folder / "cpu.max").split() or [
            _text(folder / f"cpu.cfs_{each}_us") for each in ("quota", "period")
        ]
        if quota.isdigit():  # neither "max" nor -1
            shares.append(int(quota) / int(period))
    return max(1, int(min([_physical_cores(), *shares])))


def usable_memory() -> int:
    """Return the memory in bytes that this process may use: the machine's, or the limit of its container, service or
    `ulimit -v`."""
    files = (folder / name for folder in _group_folders("memory") for name in ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for text in map(_text, files) if text.isdigit()]
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(max(0, most - psutil.Process().memory_info().vms))
    return min([psutil.virtual_memory().total, *limits])


def free_memory() -> int:
    """Return the free memory in bytes, no more than this process may use."""
    return min(psutil.virtual_memory().available, usable_memory())


def memory_for_models() -> int:
    """Return the usable memory in bytes, less a reserve of an eighth, at least 1 GiB and at most half, for everything
    else."""
    usable = usable_memory()
    return usable - min(max(usable // 8, 1 << 30), usable // 2)


def give_back_memory() -> None:
    """Return memory that was freed while loading to the system, if the C library (glibc) would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _physical_cores() -> int:
    if sys.platform == "darwin":
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]  # the fast one of Apple's two kinds
            return int(subprocess.check_output(command, stderr=subprocess.DEVNULL))
    if sys.platform != "linux":
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    # on processors with two kinds of cores; "cpu_atom" has the others
    fast = cpus & _numbers(_text(_DEVICES / "cpu_core/cpus"))
    siblings = (_text(_DEVICES / f"system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in fast or cpus)
    known = [each for each in siblings if each]
    return len(set(known)) or len(cpus)


def _group_folders(controller: str) -> Iterator[Path]:
    """Return the folders of this process's control group and those above it, for cgroup v2 or a controller of v1. A
    container sees its own group as the root."""
    for line in _text(_OWN_GROUP).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CONTROL_GROUPS / controller if controllers else _CONTROL_GROUPS
        folder = root / group.lstrip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _numbers(ranges: str) -> set[int]:
    """Return the numbers of a list as Linux writes it: "0-3,8"."""
    ends = [part.partition("-") for part in ranges.split(",") if part]
    return {number for first, _, last in ends for number in range(int(first), int(last or first) + 1)}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
