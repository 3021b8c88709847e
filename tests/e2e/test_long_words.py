"""Texts that overflow a stack or exhaust a reserve: words of any length (for llama.cpp in a vocabulary whose
pre-tokenizer recurses), nested arguments, all private characters."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server, serve
from tests.engines.tiny_models import THINKING, TinyModel, decoder

LONG = "A" * 24_000


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp"])
def either_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "ctransformers":
        yield request.getfixturevalue("server")
        return
    folder = tmp_path_factory.mktemp("long-words")
    model = TinyModel(folder / "tiny.gguf", "llama")
    model.byte_level_vocabulary("gpt-4o", THINKING)
    model.writer.add_vocab_size(model.vocab_size)
    decoder(model)
    settings = {"MODEL_PATH": str(model.write()), "CONTEXT_LENGTH": "4096", "PARALLEL": "1", "ENGINE": "llama.cpp"}
    with serve(folder, **settings) as running:
        yield running


DEEP = '{"a":' * 800 + "1" + "}" * 800
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": DEEP}}
CALLED = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "1"},
]
ITEMS = [
    {"role": "user", "content": "Hi"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": DEEP},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
]
PRIVATE = "".join(map(chr, [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xF2000)]))
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
        ("/apply-template", {"messages": CALLED}),
        ("/v1/chat/completions", {"messages": CALLED, "max_tokens": 1}),
        ("/v1/responses", {"input": ITEMS, "max_output_tokens": 16}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PRIVATE}], "max_tokens": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_server_lives(either_server: Server, path: str, body: dict) -> None:
    answer = httpx.post(f"{either_server.url}{path}", json=body, timeout=60)
    assert answer.status_code < 500, answer.text[:300]
    assert httpx.post(f"{either_server.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 1}).status_code == 200
