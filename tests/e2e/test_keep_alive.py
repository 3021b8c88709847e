"""A stream is not silent while a long prompt is evaluated, and real clients understand the keep-alives."""

import shutil
import time
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest

from ggserve.api.streaming import COMMENT, PING
from tests.conftest import FAMILY_FILES, serve
from tests.processes import PATIENCE

PROMPT = "one two three four five " * 60
ENDS = (b"[DONE]", b"message_stop", b'"done":true', b"response.completed", b"response.incomplete")
IMPATIENT = (
    "import sys, ggserve.cli, ggserve.api.streaming as s; s.STATUS_SECONDS = 0.0; s.SILENT_SECONDS = 0.01; "
    "ggserve.cli.main(sys.argv[1:])"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, shallow_path):
    settings = {"MODEL_PATH": str(shallow_path), "CONTEXT_LENGTH": "1024", "PARALLEL": "2"}
    with serve(tmp_path_factory.mktemp("logs"), command=("-c", IMPATIENT), **settings) as server:
        yield server


MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.mark.parametrize(
    ("path", "body", "sign"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2, "stream": True}, COMMENT),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 2, "stream": True}, COMMENT),
        ("/v1/responses", {"input": f"1 {PROMPT}", "max_output_tokens": 16, "stream": True}, COMMENT),
        ("/v1/messages", {"messages": MESSAGES, "system": "2", "max_tokens": 2, "stream": True}, PING),
        ("/api/generate", {"prompt": f"3 {PROMPT}", "options": {"num_predict": 2}}, b'"response":"","done":false}\n'),
    ],
)
def test_signs_of_life_come_first(server, path, body, sign):
    with httpx.stream("POST", server.url + path, json=body, timeout=60) as response:
        assert response.status_code == 200
        before, found, rest = response.read().partition(sign)
    assert found
    assert b"data:" not in before
    assert any(end in rest for end in ENDS)


@pytest.fixture(scope="module")
def loading_server(tmp_path_factory):
    """A server whose only model takes long to load, and is unloaded after each request."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "slow.gguf")
    slow = {"PYTHONPATH": f"{Path(__file__).parent}/slow_load", "SLOW_LOAD": "slow", "SLOW_SECONDS": "0.5"}
    models = {"MODELS_DIR": str(folder), "KEEP_ALIVE": "0", "CONTEXT_LENGTH": "64"}
    with serve(tmp_path_factory.mktemp("logs"), command=("-c", IMPATIENT), **models, **slow) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body", "sign"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, "stream": True}, COMMENT),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "stream": True}, PING),
        ("/api/generate", {"prompt": "a", "options": {"num_predict": 2}}, b'"response":"","done":false}\n'),
    ],
)
def test_signs_of_life_come_while_the_model_loads(loading_server, path, body, sign):
    deadline = time.monotonic() + PATIENCE
    while httpx.get(f"{loading_server.url}/api/ps").json()["models"]:  # from the request before
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with httpx.stream("POST", loading_server.url + path, json={"model": "slow", **body}, timeout=60) as response:
        assert response.status_code == 200
        content = response.read()
    assert content.count(sign) > 5
    assert any(end in content.rpartition(sign)[2] for end in ENDS)


def test_clients_skip_them(server):
    messages = [{"role": "user", "content": PROMPT + "?"}]
    chat = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").chat.completions
    chunks = list(chat.create(model="default", messages=messages, max_tokens=2, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    with anthropic.Anthropic(base_url=server.url, api_key="none").messages.stream(
        model="default", messages=[{"role": "user", "content": PROMPT + "!"}], max_tokens=2
    ) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"
    lines = list(
        ollama.Client(server.url).chat(
            "default", [{"role": "user", "content": PROMPT}], stream=True, options={"num_predict": 2}
        )
    )
    assert lines[-1].done
