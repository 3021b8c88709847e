"""Starts and kills the processes of a llama-server, on every system."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

if sys.platform == "win32":
    from ggserve.engines.llama_cpp.job_object import end_together


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program. Its standard output and error are one pipe, and it inherits nothing else. Raises OSError."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C is for this process, which ends the other when it is done
    )
    if sys.platform == "win32":
        end_together(process.pid)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that `start` started, and on POSIX systems its children, without waiting."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
