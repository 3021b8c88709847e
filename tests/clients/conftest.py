"""Servers for clients in an environment of their own: `make test-clients`. Nothing of ggserve is imported."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/bin/python"
SECONDS = 60  # seconds until the server must be ready


@pytest.fixture(scope="session", params=["ctransformers", "llama.cpp"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server with the default model, on each engine in turn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = tmp_path_factory.mktemp("logs")
    settings = {
        "THREADS": "1",
        "ENGINE": request.param,
        "CONTEXT_LENGTH": "2048",
        "PARALLEL": "2",
        "LOG_DIR": str(logs),
    }
    with (logs / "console").open("wb") as console:
        process = subprocess.Popen(
            [PYTHON, "main.py", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(f"{base}/health", process)
        yield f"{base}/v1"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until_ready(health: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")
