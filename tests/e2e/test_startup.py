"""While the model loads the port is open: /health shows the progress, and everything else says to come back."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.read_ahead import read_ahead
from tests.conftest import FAMILY_FILES, ROOT, TEST_SETTINGS
from tests.hub.loopback_hub import Repo, running_hub
from tests.modelfile.tiny_gguf import llama
from tests.processes import PATIENCE, clean_environment, free_port


def test_a_server_whose_model_is_on_its_way_answers(tmp_path: Path) -> None:
    port = free_port()
    with running_hub() as hub:
        hub.repos["org/slow"] = Repo({"slow.gguf": bytes(2000)}, stall=1000)
        process = subprocess.Popen(
            [sys.executable, "main.py", "--port", str(port)],
            cwd=ROOT,
            env={
                **clean_environment(),
                "MODEL_NAME": "org/slow",
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "hf"),
                "LOG_DIR": str(tmp_path / "logs"),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert hub.stalled.wait(PATIENCE)
            url = f"http://127.0.0.1:{port}"
            health = wait_for(f"{url}/health")
            assert (health.status_code, health.headers["retry-after"]) == (503, "1")
            assert (health.json()["status"], health.json()["progress"]) == ("loading", 0.0)
            for path, body in [("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})]:
                answer = httpx.post(url + path, json=body)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json()["error"]["code"] == "model_loading"
            assert httpx.get(f"{url}/v1/models").json() == {"object": "list", "data": []}
            assert httpx.get(f"{url}/api/tags").json() == {"models": []}
        finally:
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "ggserve: interrupted while loading"
    assert "Traceback" not in said


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_modules_are_imported(times: int, tmp_path: Path) -> None:
    with starting(tmp_path, "main.py") as process:
        supervisor = psutil.Process(process.pid)
        deadline = time.monotonic() + PATIENCE
        while not supervisor.children():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for _ in range(times):
            process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == "ggserve: interrupted while loading\n"


SLOWLY_READ = """
import sys, time, ggserve.cli, ggserve.modelfile.read_ahead as reading
class Slow(reading.tqdm):
    def update(self, count):
        time.sleep(0.5)
        return super().update(count)
reading._SMALL, reading._CHUNK, reading.tqdm = 0, 1000, Slow
ggserve.cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_a_file_is_read_ahead(times: int, tmp_path: Path) -> None:
    port = free_port()
    with starting(tmp_path, "-c", SLOWLY_READ, "--port", str(port)) as process:
        while not wait_for(f"http://127.0.0.1:{port}/health").json().get("progress"):
            time.sleep(0.05)
        for _ in range(times):
            process.terminate()
            time.sleep(0.3)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "ggserve: interrupted while loading"
    assert "Traceback" not in said


@contextmanager
def starting(log_dir: Path, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """A server that has only begun to start."""
    model = str(FAMILY_FILES / "llama.f16.v2.gguf")
    environment = {**clean_environment(), **TEST_SETTINGS, "MODEL_PATH": model, "LOG_DIR": str(log_dir)}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(url: str) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return httpx.get(url)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_large_file_is_read_with_its_progress_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggserve.modelfile.read_ahead._SMALL", 0)
    monkeypatch.setattr("ggserve.modelfile.read_ahead._CHUNK", 1000)
    file = read_model_file(llama().write(tmp_path / "m.gguf"))
    told: list[float] = []
    read_ahead(file, told.append)
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == 1.0
