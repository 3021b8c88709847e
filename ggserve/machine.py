"""What of the machine this process may use: cores to compute with, and memory."""

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
_GPU_NODES = ("nvidiactl", "nvidia0", "kfd", "dri/renderD128", "dxg")  # of /dev: NVIDIA, AMD, any with Mesa, WSL


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a model runs on."""

    build: str  # of the engine, with its version
    devices: tuple[str, ...] = ()  # the GPUs that it uses, one line each
    layers: str | None = None  # how much of the model they hold
    fallback: str | None = None  # why they hold less than they should


def may_have_gpu() -> bool:
    """Return whether this machine has a GPU's device node: a cheap test before libraries are loaded for one."""
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in _GPU_NODES)


def usable_cores() -> int:
    """The physical cores that this process may run on, of two kinds the fast ones, and no more than the time that its
    container or service may take fills.

    ggml's threads share each matrix evenly and wait for the slowest, which are those that share a core or have a small
    one.
    """
    shares = []
    for folder in _group_folders("cpu"):
        quota, period = _text(folder / "cpu.max").split() or [
            _text(folder / f"cpu.cfs_{each}_us") for each in ("quota", "period")
        ]
        if quota.isdigit():  # not "max", and not -1
            shares.append(int(quota) / int(period))
    return max(1, int(min([_physical_cores(), *shares])))


def usable_memory() -> int:
    """Bytes: the machine's memory, or what the container, the service or `ulimit -v` leaves this process of it."""
    files = (folder / name for folder in _group_folders("memory") for name in ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for text in map(_text, files) if text.isdigit()]
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(max(0, most - psutil.Process().memory_info().vms))
    return min([psutil.virtual_memory().total, *limits])


def free_memory() -> int:
    """Bytes: the memory that is free, and no more than this process may use."""
    return min(psutil.virtual_memory().available, usable_memory())


def memory_for_models() -> int:
    """Bytes: the usable memory less a reserve of an eighth, at least 1 GiB and at most half, for all else."""
    usable = usable_memory()
    return usable - min(max(usable // 8, 1 << 30), usable // 2)


def give_back_memory() -> None:
    """Returns to the system what was freed while loading, where the C library (glibc) would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _physical_cores() -> int:
    if sys.platform == "darwin":
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]  # of Apple's two kinds the fast one
            return int(subprocess.check_output(command, stderr=subprocess.DEVNULL))
    if sys.platform != "linux":
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    fast = cpus & _numbers(_text(_DEVICES / "cpu_core/cpus"))  # on processors of two kinds; "cpu_atom" are the others
    siblings = (_text(_DEVICES / f"system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in fast or cpus)
    known = [each for each in siblings if each]
    return len(set(known)) or len(cpus)


def _group_folders(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and those above it, of cgroup v2 and of a controller of v1. A
    container sees its own as the root."""
    for line in _text(_OWN_GROUP).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CONTROL_GROUPS / controller if controllers else _CONTROL_GROUPS
        folder = root / group.lstrip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _numbers(ranges: str) -> set[int]:
    """Of a list as Linux writes it: "0-3,8"."""
    ends = [part.partition("-") for part in ranges.split(",") if part]
    return {number for first, _, last in ends for number in range(int(first), int(last or first) + 1)}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
