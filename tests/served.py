"""A server with the default model for programs in environments of their own. Nothing of ggserve is imported."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv/bin/python"
SECONDS = 60  # seconds until the server must be ready, or gone


@contextmanager
def served(logs: Path, **settings: str) -> Iterator[str]:
    """Yield the URL of a server with these settings; stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (logs / "console").open("wb") as console:
        process = subprocess.Popen(
            [PYTHON, "main.py", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "THREADS": "1", "PARALLEL": "2", "LOG_DIR": str(logs), **settings},
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def health(url: str) -> dict[str, object]:
    """Return the answer of `/health`."""
    with urllib.request.urlopen(f"{url}/health", timeout=SECONDS) as answer:
        state: dict[str, object] = json.load(answer)
    return state


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            health(url)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")
