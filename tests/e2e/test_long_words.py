"""Words of any length, in whatever a request holds, for a vocabulary whose pre-tokenizer in llama.cpp recurses."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server, serve
from tests.engines.tiny_models import THINKING, TinyModel, decoder

LONG = "A" * 24_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("long-words")
    model = TinyModel(folder / "tiny.gguf", "llama")
    model.byte_level_vocabulary("gpt-4o", THINKING)
    model.writer.add_vocab_size(model.vocab_size)
    decoder(model)
    settings = {"MODEL_PATH": str(model.write()), "CONTEXT_LENGTH": "4096", "PARALLEL": "1", "ENGINE": "llama.cpp"}
    with serve(folder, **settings) as server:
        yield server


CHAT = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
SHORT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
TOOL = {"type": "function", "function": {"name": "f", "description": LONG}}
CONST = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": LONG}}}
PATTERN = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "pattern": "^A{24000}$"}}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**SHORT, "tools": [TOOL]}),
        ("/v1/chat/completions", {**SHORT, "chat_template_kwargs": {"note": LONG}}),
        ("/v1/chat/completions", {**SHORT, "response_format": CONST}),
        ("/v1/chat/completions", {**SHORT, "response_format": PATTERN}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "A", "max_tokens": 1, "stop": [LONG]}),
        ("/v1/embeddings", {"input": LONG}),
        ("/v1/messages", CHAT),
        ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
        ("/api/chat", {**CHAT, "stream": False}),
        ("/api/generate", {"prompt": LONG, "stream": False, "options": {"num_predict": 1}}),
        ("/api/embed", {"input": LONG}),
        ("/tokenize", {"content": LONG}),
        ("/apply-template", {"messages": CHAT["messages"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_server_lives(server: Server, path: str, body: dict) -> None:
    answer = httpx.post(f"{server.url}{path}", json={"model": "tiny", **body}, timeout=60)
    assert answer.status_code < 500, answer.text[:300]
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 1}).status_code == 200
