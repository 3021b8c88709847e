"""The Windows job object of this process: the system ends its members when this process ends, however that happens."""

import ctypes
import sys
from ctypes import wintypes
from functools import cache

_EXTENDED_LIMITS = 9  # JobObjectExtendedLimitInformation
_KILL_ON_JOB_CLOSE = 0x2000
_MAY_ASSIGN = 0x0101  # PROCESS_SET_QUOTA | PROCESS_TERMINATE


class Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priorities", ctypes.c_uint32 * 2),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


if sys.platform == "win32":

    def end_together(pid: int) -> None:
        """Let a process end when this one does."""
        windows = ctypes.WinDLL("kernel32")
        windows.OpenProcess.restype = wintypes.HANDLE
        process = wintypes.HANDLE(windows.OpenProcess(_MAY_ASSIGN, False, pid))
        windows.AssignProcessToJobObject(_job(), process)
        windows.CloseHandle(process)

    @cache
    def _job() -> wintypes.HANDLE:
        """Return the job. It is never closed, so the system closes it together with this process."""
        windows = ctypes.WinDLL("kernel32")
        windows.CreateJobObjectW.restype = wintypes.HANDLE
        job = wintypes.HANDLE(windows.CreateJobObjectW(None, None))
        limits = Limits(flags=_KILL_ON_JOB_CLOSE)
        windows.SetInformationJobObject(job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
        return job
