"""A worker that native code kills is restarted; a requested stop ends with the worker's exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import FAMILY_FILES, ROOT, Server, clean_environment, serve, wait_until_ready
from tests.processes import PATIENCE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes((FAMILY_FILES / "llama.f16.v2.gguf").read_bytes())
    return path


def test_a_worker_that_dies_is_started_again_on_the_same_port(small, tmp_path):
    with serve(tmp_path, MODEL_PATH=str(small)) as server:
        dead = worker_of(server)
        dead.send_signal(signal.SIGBUS)
        dead.wait(PATIENCE)
        wait_until_ready(server)
        assert worker_of(server).pid != dead.pid
        (line,) = [line for line in server.log("console").splitlines() if line.startswith("ggserve: ")]
        assert "SIGBUS: the model file was changed while it was in use; replace files by rename" in line
        assert "SIGBUS" in server.log()
    assert server.process.returncode == 0
    assert "Traceback" not in server.log("console")


def test_a_worker_that_cannot_start_again_ends_it_with_the_workers_code(small, tmp_path):
    with serve(tmp_path, MODEL_PATH=str(small)) as server:
        os.truncate(small, 1000)
        worker_of(server).send_signal(signal.SIGBUS)
        assert server.process.wait(PATIENCE) == 2
    assert "small.gguf" in server.log("console").splitlines()[-1]


def test_a_worker_that_dies_before_it_is_ready_is_not_started_again(small, tmp_path):
    code = "import os; from ggserve.server import supervisor; supervisor.supervise(); os.abort()"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 128 + signal.SIGABRT
    assert ended.stderr.startswith("ggserve: the worker was killed by SIGABRT")


def test_a_worker_ends_when_its_supervisor_is_killed(small, tmp_path):
    with serve(tmp_path, MODEL_PATH=str(small)) as server:
        worker = worker_of(server)
        server.process.kill()
        worker.wait(PATIENCE)


def test_the_third_signal_kills_a_worker_that_hangs(small, tmp_path):
    with serve(tmp_path, MODEL_PATH=str(small)) as server:
        worker_of(server).suspend()
        sent = 0
        deadline = time.monotonic() + PATIENCE
        while server.process.poll() is None:  # signals that a busy supervisor gets together count as one
            assert time.monotonic() < deadline
            server.process.terminate()
            sent += 1
            time.sleep(0.1)
        assert (sent >= 3, server.process.returncode) == (True, 130)
    assert server.log("console").splitlines()[-1] == "ggserve: killed by the third signal"


def test_a_taken_port_is_told_at_once(small, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            [sys.executable, "main.py", "--port", str(taken.getsockname()[1])],
            cwd=ROOT,
            env={**clean_environment(), "MODEL_PATH": str(small), "LOG_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("ggserve: HOST=127.0.0.1, PORT=")
    assert "cannot listen on this address: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "loaded" not in ended.stderr


def test_a_worker_that_dies_again_and_again_is_started_ever_later_and_then_no_more():
    code = """
import os
from ggserve.server import supervisor
supervisor._Supervisor._pause = lambda self, seconds: print(seconds, flush=True)
supervisor.supervise().ready()
os.abort()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert [float(line) for line in ended.stdout.split()] == [0, 1, 2, 4, 8]
    assert ended.returncode == 128 + signal.SIGABRT
    assert ended.stderr.count("Restarting it") == 5
    assert ended.stderr.splitlines()[-1].endswith("giving up after 6 crashes in a row")


def test_a_killed_worker_leaves_nothing_in_the_temporary_folder(small, tmp_path):
    temporary = tmp_path / "t"
    temporary.mkdir()
    with serve(tmp_path, MODEL_PATH=str(small), TMPDIR=str(temporary), ENGINE="llama.cpp") as server:
        worker = worker_of(server)
        (left,) = temporary.iterdir()
        worker.kill()
        worker.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while left.exists() or len(list(temporary.iterdir())) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
