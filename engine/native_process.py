"""What native code does to the process while it loads: it takes over signals and writes to the standard error."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Puts Python's SIGINT and SIGTERM handlers back after the block. Only a main thread can."""
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
def captured_stderr() -> Iterator[BinaryIO]:
    """A file that gets what any code writes to file descriptor 2 in the block.

    A file and not a pipe: native code that holds the interpreter's lock would wait for ever on a full pipe.
    """
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(saved, 2)
            os.close(saved)
