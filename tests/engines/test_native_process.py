"""The standard error of C code."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ggserve.engines.native_process import captured_stderr
from tests.conftest import ROOT

PROGRAM = """
import ctypes, pathlib, sys
from ggserve.engines.native_process import send_c_stderr
send_c_stderr(pathlib.Path(sys.argv[1]))
ctypes.CDLL(None).perror(b"from C")
print("from Python", file=sys.stderr)
"""


def test_c_writes_to_the_log_and_python_to_the_console(tmp_path: Path):
    log = tmp_path / "model.log"
    log.write_text("before\n")
    result = subprocess.run([sys.executable, "-c", PROGRAM, str(log)], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr == "from Python\n"
    before, after = log.read_text().splitlines()
    assert before == "before"
    assert after.startswith("from C")


def test_a_load_that_fails_leaves_nothing_open_and_no_child():
    process = psutil.Process()
    before = process.num_fds(), process.children()
    with pytest.raises(ValueError), captured_stderr("it ended") as output:
        os.write(2, b"why")
        assert os.pread(output.fileno(), 10, 0) == b"why"
        raise ValueError
    assert (process.num_fds(), process.children()) == before


def test_a_load_goes_on_where_the_process_is_too_large_to_fork(monkeypatch: pytest.MonkeyPatch):
    def fork() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    process = psutil.Process()
    before = process.num_fds(), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(os, "fork", fork)
    with captured_stderr("it ended") as output:
        os.write(2, b"loaded")
        assert os.pread(output.fileno(), 10, 0) == b"loaded"
    assert (process.num_fds(), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
