"""A build that accepts requests and never answers them: what does not need its answer goes on."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggserve.engines.llama_cpp import listener as listeners
from ggserve.engines.llama_cpp.listener import PrivateListener
from ggserve.errors import EngineError
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.engines.tiny_models import write_tiny_model
from tests.llama_server import launcher

LONG = [5 + (7 * number) % 90 for number in range(300)]
PATHS = "/tokenize", "/detokenize", "/slots/0?action=save"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateListener]:
    """A client of a program that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = PrivateListener()
        monkeypatch.setattr(client, "connect", lambda: socket.create_connection(server.getsockname()))
        monkeypatch.setattr(listeners, "_PATIENCE", {**listeners._PATIENCE, "/slots/": 0.05})
        yield client
        client.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_request_without_an_answer_ends_with_a_clear_error(
    silent: PrivateListener, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(listeners, "_PATIENCE", {"/": 0.05})
    with pytest.raises(EngineError) as error:
        silent.post(path, {})
    assert str(error.value) == f"llama.cpp has not answered {path} for 0.05 seconds"
    assert not silent.ready()


@pytest.mark.parametrize("child", [False, True], ids=["in process", "child"])
def test_where_slots_cannot_be_saved_prompts_are_answered_and_the_model_ends(
    silent: PrivateListener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    child: bool,
) -> None:
    async def last(prompt: list[int]) -> Delta:
        return [delta async for delta in model.complete(prompt, SamplingParams(max_tokens=2, ignore_eos=True))][-1]

    path = write_tiny_model(tmp_path, "qwen2")
    server = str(launcher(tmp_path)) if child else "off"
    sizes: dict[str, Any] = {"context_length": 512, "parallel": 1, "threads": 1}
    model = GGUFModel(path, engine="llama.cpp", llama_server=server, prompt_cache_dir=tmp_path / "states", **sizes)
    transport: Any = model.engine._transport  # type: ignore[union-attr]
    client = transport._server.listener if child else transport._listener
    answered, asked = client._request, []

    def request(method: str, path: str, body: str | None) -> Any:
        if not path.startswith("/slots/"):
            return answered(method, path, body)
        asked.append(path)
        return silent._request(method, path, body)

    monkeypatch.setattr(client, "_request", request)
    with caplog.at_level(logging.WARNING, "ggserve.model"):
        for shift in range(3):
            delta = asyncio.run(last([token + shift for token in LONG]))
            assert (delta.completion_tokens, delta.cached_tokens) == (2, 0)
        model.close()
    assert asked == ["/slots/0?action=save"]  # once is enough
    assert "a prompt was not saved: llama.cpp has not answered /slots/0?action=save" in caplog.text
    assert "does not answer requests about slots" in caplog.text
