"""The hardware that this process may use: CPU cores, memory, and whether a GPU can be present."""

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
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_DEVICES = Path("/sys/devices")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_GPU_NODES = ("nvidiactl", "nvidia0", "kfd", "dri/renderD128", "dxg")  # in /dev: NVIDIA, AMD, any with Mesa, WSL


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware that a model runs on."""

    build: str  # the engine and its version
    devices: tuple[str, ...] = ()  # the GPUs in use, one line each
    layers: str | None = None  # the layers on the GPUs
    fallback: str | None = None  # why fewer layers than requested are on the GPUs


def may_have_gpu() -> bool:
    """Return whether this machine can have a GPU. Looks for device nodes only, which is cheaper than loading a GPU
    library."""
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in _GPU_NODES)


def usable_cores() -> int:
    """Return the number of physical CPU cores that this process may use, limited by affinity and by the CPU quota of
    its container or service.

    On hybrid processors only performance cores count. ggml's threads get equal shares of each matrix and wait for the
    slowest one, so a thread on an efficiency core or on a shared core slows all of them.
    """
    shares = []
    for folder in _group_folders("cpu"):
        quota, period = _text(folder / "cpu.max").split() or [
            _text(folder / f"cpu.cfs_{each}_us") for each in ("quota", "period")
        ]
        if quota.isdigit():  # neither "max" nor -1
            shares.append(int(quota) / int(period))
    return max(1, int(min([_physical_cores(), *shares])))


def free_cores() -> int | None:
    """Return the number of logical CPU cores minus the threads of all programs, except this one, that run or wait for a
    core at the moment; None outside Linux, or if this process is limited to some of the cores."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) != (cores := os.cpu_count() or 1):
        return None
    runnable = _text(Path("/proc/loadavg")).partition("/")[0].split()  # e.g. "0.20 0.18 0.12 1/80 11206"
    return cores + 1 - int(runnable[-1]) if runnable else None  # minus this thread


def usable_memory() -> int:
    """Return the memory that this process may use, in bytes: the machine's memory, or the limit of its container,
    service or `ulimit -v`."""
    files = (folder / name for folder in _group_folders("memory") for name in ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for text in map(_text, files) if text.isdigit()]
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(max(0, most - psutil.Process().memory_info().vms))
    return min([psutil.virtual_memory().total, *limits])


def free_memory() -> int:
    """Return the free memory in bytes, at most `usable_memory()`."""
    return min(psutil.virtual_memory().available, usable_memory())


def memory_for_models() -> int:
    """Return the memory that models may use, in bytes: the usable memory less one eighth (at least 1 GiB, at most half)
    for everything else."""
    usable = usable_memory()
    return usable - min(max(usable // 8, 1 << 30), usable // 2)


def return_large_blocks() -> None:
    """Make glibc return each large block to the system when it is freed. By default, it keeps up to 64 MiB at the top
    of each thread's arena once blocks of that size were freed, and malloc_trim does not reach them."""
    if sys.platform == "linux" and (option := getattr(ctypes.CDLL(None), "mallopt", None)):
        option(_M_MMAP_THRESHOLD, 4 << 20)  # above what an engine allocates for each token
        option(_M_TRIM_THRESHOLD, 8 << 20)


def give_back_memory() -> None:
    """Return memory that was freed while loading to the system. glibc would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _physical_cores() -> int:
    if sys.platform == "darwin":
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]  # Apple's performance cores
            return int(subprocess.check_output(command, stderr=subprocess.DEVNULL))
    if sys.platform != "linux":
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    fast = cpus & _numbers(_text(_DEVICES / "cpu_core/cpus"))  # of hybrid Intel processors; "cpu_atom" has the others
    siblings = (_text(_DEVICES / f"system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in fast or cpus)
    known = [each for each in siblings if each]
    return len(set(known)) or len(cpus)


def _group_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and its ancestors, for cgroup v2 and for a cgroup v1
    controller. A container sees its own group as the root."""
    for line in _text(_OWN_GROUP).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CONTROL_GROUPS / controller if controllers else _CONTROL_GROUPS
        folder = root / group.lstrip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _numbers(ranges: str) -> set[int]:
    """Return the numbers in a Linux CPU list such as "0-3,8"."""
    ends = [part.partition("-") for part in ranges.split(",") if part]
    return {number for first, _, last in ends for number in range(int(first), int(last or first) + 1)}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
