"""Guards the process while native code loads, which takes over signals, writes to standard error, and may end the
process."""

import ctypes
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

_C_STDERR = {"linux": "stderr", "darwin": "__stderrp"}  # the name of the C library's variable, if it can be set


def _c_stderr() -> ctypes.c_void_p | None:
    """Return the C library's variable `stderr`, if it can be set."""
    name = _C_STDERR.get(sys.platform)
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), name) if name else None


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Put Python's SIGINT and SIGTERM handlers back after the block. Only a main thread can."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # None: not Python's to begin with
                    signal.signal(number, handler)


@contextmanager
def captured_stderr(crash: str) -> Iterator[BinaryIO]:
    """Yield a file that receives everything written to file descriptor 2 in the block.

    If native code ends the process in the block, the true standard error gets a line: `crash`, and the last line of the
    file. It is a file and not a pipe, because native code that holds Python's lock would wait for ever on a full pipe.
    """
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        saved = os.dup(2)
        try:
            with _survivor(lambda: os.write(saved, b"ggserve: %s: %s\n" % (crash.encode(), _last_line(file)))):
                os.dup2(file.fileno(), 2)
                try:
                    with _original_c_stderr():
                        yield file
                finally:
                    os.dup2(saved, 2)
        finally:
            os.close(saved)


@cache
def send_c_stderr(path: Path) -> None:
    """Append what C code writes to standard error to a file from now on. Python's standard error stays as it is."""
    if (variable := _c_stderr()) is None:
        return
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    if file := libc.fopen(os.fsencode(path), b"a"):
        libc.setbuf(ctypes.c_void_p(file), None)
        variable.value = file


_ORIGINAL = variable.value if (variable := _c_stderr()) else None


@contextmanager
def _original_c_stderr() -> Iterator[None]:
    """Send C code's standard error to file descriptor 2 for the length of the block."""
    if (variable := _c_stderr()) is None:
        yield
        return
    file, variable.value = variable.value, _ORIGINAL
    try:
        yield
    finally:
        variable.value = file


@contextmanager
def _survivor(last_words: Callable[[], object]) -> Iterator[None]:
    """Call `last_words` in a child process if this one ends in the block. Needs fork, and memory for it."""
    if not hasattr(os, "fork"):
        yield
        return
    gone, here = os.pipe()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
    except OSError:  # the process has more memory than the system has left
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.close(gone)
        os.close(here)
        yield
        return
    if child == 0:  # its signals stay blocked: a Ctrl-C goes to it too
        os.close(here)
        if not os.read(gone, 1):
            last_words()
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    os.close(gone)
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # the child may have been killed
            os.write(here, b".")
        os.close(here)
        os.waitpid(child, 0)


def _last_line(file: BinaryIO) -> bytes:
    lines = os.pread(file.fileno(), 1 << 16, 0).strip().splitlines()
    return lines[-1] if lines else b"not a word was said; memory may have run out"
