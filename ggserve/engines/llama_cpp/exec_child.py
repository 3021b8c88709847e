"""Becomes a program that ends together with the process that started it: `exec_child.py PARENT PROGRAM [ARGUMENT ...]`.

It is a program of its own because a process with several threads must not run Python between fork and exec.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_STACK = 64 << 20  # bytes per thread, as in stack.py

parent, *command = sys.argv[1:]
if sys.platform == "linux":
    import ctypes
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if 0 < soft < _STACK and (hard == resource.RLIM_INFINITY or hard >= _STACK):
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK, hard))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # the parent ended before it could be watched
        sys.exit(1)
os.execv(command[0], command)
