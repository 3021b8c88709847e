"""PROMPT_CACHE_DIR over HTTP: a chat continues after a restart, a crash, an unload and a switch, with the same text."""

import shutil
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import FAMILY_FILES, Server, serve
from tests.processes import PATIENCE

STORY = "The lighthouse keeper climbed the stairs, counted the ships on the dark water and wrote their names. " * 16


@pytest.fixture
def folder(tmp_path: Path, shallow_original_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "chat.gguf").symlink_to(shallow_original_path)
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "other.gguf")
    return folder


def chat(server: Server) -> tuple[str, int]:
    """Return the answer, and the number of cached prompt tokens."""
    messages = [{"role": "user", "content": f"{STORY} What did the keeper write?"}]
    body = {"model": "chat", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["choices"][0]["message"]["content"], found["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_chat_survives_what_unloads_its_model(folder: Path, tmp_path: Path) -> None:
    settings = {"MODELS_DIR": str(folder), "ENGINE": "llama.cpp", "CONTEXT_LENGTH": "1024", "PARALLEL": "1"}
    saved = {**settings, "PROMPT_CACHE_DIR": str(tmp_path / "states"), "MODELS_MAX": "1"}
    with serve(tmp_path / "plain", **settings) as server:
        assert chat(server)[1] == 0
        text, cached = chat(server)  # from memory, which rounds differently
        assert cached > 256
    with serve(tmp_path / "first", **saved) as server:
        assert chat(server)[1] == 0
        # a switch
        body = {"model": "other", "prompt": "a", "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
        assert chat(server) == (text, cached)
        # an unload
        httpx.post(f"{server.url}/models/unload", json={"model": "chat"}, timeout=60).raise_for_status()
        assert chat(server) == (text, cached)
        # a crash
        (worker,) = psutil.Process(server.process.pid).children()
        worker.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert chat(server) == (text, cached)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    with serve(tmp_path / "second", **saved) as server:  # a restart
        assert chat(server) == (text, cached)
        for action in ("save", "erase", "restore"):
            answer = httpx.post(f"{server.url}/slots/0?action={action}", json={"model": "chat", "filename": "a.bin"})
            assert answer.status_code == 200, answer.text
        assert chat(server) == (text, cached)
        refused = httpx.post(f"{server.url}/slots/0?action=restore", json={"model": "chat", "filename": "../a"})
        assert refused.status_code == 400
    with serve(tmp_path / "third", **settings) as server:
        refused = httpx.post(f"{server.url}/slots/0?action=save", json={"model": "chat", "filename": "a"})
        assert (refused.status_code, "PROMPT_CACHE_DIR" in refused.text) == (400, True)
