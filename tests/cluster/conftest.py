"""A real Ray on this machine, in a session of its own, and the application on it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.processes import PATIENCE, clean_environment, free_port

ROOT = Path(__file__).parents[2]
SLOTS, QUEUE = 2, 2


@dataclass
class Cluster:
    """The application on Ray."""

    url: str
    dashboard: str
    environment: dict[str, str]  # for commands that must find this Ray
    process: subprocess.Popen[bytes]  # cluster.py
    ray: subprocess.Popen[bytes]
    logs: Path
    client: httpx.Client

    def get(self, path: str) -> Any:
        return self.client.get(self.url + path).json()

    def chat(self, text: str, tokens: int, **fields: Any) -> httpx.Response:
        return self.client.post(f"{self.url}/v1/chat/completions", json=chat(text, tokens, **fields))

    def replicas(self) -> list[int]:
        """The process ids of the replicas."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = os.getsid(process.pid) == self.ray.pid
                if ours and process.cmdline()[:1] == ["ray::ServeReplica:default:Replica"]:
                    found.append(process.pid)
        return found

    def until(self, condition: Any, seconds: float = PATIENCE) -> None:
        """Wait until a condition on `/health` holds."""
        deadline = time.monotonic() + seconds
        while not condition(state := self.get("/health")):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)

    def all_idle(self) -> None:
        self.until(lambda state: len(state.get("replicas", [])) == 2 and state["slots_idle"] == 2 * SLOTS)


def chat(text: str, tokens: int, **fields: Any) -> dict[str, Any]:
    """A request for an answer of exactly this many tokens."""
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        **fields,
    }


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own; nothing of that session is left at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        for other in psutil.process_iter():
            with suppress(OSError):
                if os.getsid(other.pid) == process.pid:
                    os.kill(other.pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE)


def wait_for(process: subprocess.Popen[bytes], log: Path, words: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while words not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # the path of a socket must be short
        logs = Path(folder)
        port, dashboard = free_port(), free_port()
        environment = {
            **clean_environment(),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "THREADS": "1",
            "PARALLEL": str(SLOTS),
            "QUEUE_SIZE": str(QUEUE),
            "CONTEXT_LENGTH": "1024",
            "LOG_DIR": str(logs),
            "PORT": str(free_port()),
        }
        start = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--head",
            "--block",
            f"--port={port}",
        ]
        start += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
        start += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
        start += ["--num-cpus=2", "--min-worker-port=23000", "--max-worker-port=23999", f"--temp-dir={folder}/ray"]
        start += ["--object-store-memory=80000000", "--disable-usage-stats"]
        with running(start, logs / "ray.out", environment) as ray:
            wait_for(ray, logs / "ray.out", "Ray runtime started")
            environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
            with running([sys.executable, "-m", "ggserve", "cluster"], logs / "cluster.out", environment) as process:
                wait_for(process, logs / "cluster.out", "ready:")
                with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=40)) as client:
                    url = f"http://127.0.0.1:{environment['PORT']}"
                    address = f"http://127.0.0.1:{dashboard}"
                    yield Cluster(url, address, environment, process, ray, logs, client)
