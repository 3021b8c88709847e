"""Thoughts over HTTP, on both engines: structured output after them in every dialect, streamed and whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.conftest import Server, serve

TEMPLATE = """{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
SCHEMA = {"type": "object", "properties": {"name": {"enum": ["Oslo", "Rome"]}}, "required": ["name"]}
MESSAGES = [{"role": "user", "content": "What is the capital of Norway?"}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
TEXT_FORMAT = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}}
OUTPUT_FORMAT = {"format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinks")
    template = folder / "thinks.jinja"
    template.write_text(TEMPLATE)
    path: Path = request.getfixturevalue("default_path" if request.param == "ctransformers" else "original_path")
    settings = {"MODEL_PATH": str(path), "ENGINE": request.param, "PARALLEL": "1", "CHAT_TEMPLATE": str(template)}
    with serve(folder, **settings) as server:
        yield server


def post(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    """The answer, or its events' data."""
    with httpx.stream("POST", f"{server.url}{path}", json={"model": "any", **body}, timeout=240) as response:
        text = response.read().decode()
    assert response.status_code == 200, text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: ", "{"))]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(server: Server, stream: bool, **fields: Any) -> tuple[str, str]:
    """Thought and text of a chat completion."""
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 80, "stream": stream, **fields}
    choices = [choice for event in post(server, "/v1/chat/completions", body) for choice in event["choices"]]
    parts = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return tuple("".join(part.get(key) or "" for part in parts) for key in ("reasoning_content", "content"))  # type: ignore[return-value]


def responses(server: Server, stream: bool, **fields: Any) -> tuple[str, str]:
    body = {"input": MESSAGES[0]["content"], "temperature": 0, "max_output_tokens": 80, "stream": stream, **fields}
    events = post(server, "/v1/responses", body)
    answer = events[-1]["response"] if stream else events[0]
    parts = {item["type"]: item["content"][0]["text"] for item in answer["output"]}
    return parts.get("reasoning", ""), parts["message"]


def messages(server: Server, stream: bool, **fields: Any) -> tuple[str, str]:
    events = post(server, "/v1/messages", {"messages": MESSAGES, "max_tokens": 80, "stream": stream, **fields})
    if stream:
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    else:
        deltas = events[0]["content"]
    return tuple("".join(delta.get(key, "") for delta in deltas) for key in ("thinking", "text"))  # type: ignore[return-value]


def ollama(server: Server, stream: bool, **fields: Any) -> tuple[str, str]:
    body = {"messages": MESSAGES, "options": {"temperature": 0, "num_predict": 80}, "stream": stream, **fields}
    parts = [event["message"] for event in post(server, "/api/chat", body)]
    return tuple("".join(part.get(key) or "" for part in parts) for key in ("thinking", "content"))  # type: ignore[return-value]


BUDGETED: list[tuple[Any, dict[str, Any]]] = [
    (chat, {"response_format": FORMAT, "thinking_budget_tokens": 6}),
    (chat, {"guided_regex": r'\{"name": "(Oslo|Rome)"\}', "reasoning_budget": 6}),
    (responses, {"text": TEXT_FORMAT, "reasoning": {"effort": "low"}}),
    (messages, {"output_config": OUTPUT_FORMAT, "thinking": {"type": "enabled", "budget_tokens": 6}}),
    (ollama, {"format": SCHEMA, "think": "low"}),
]
WITHOUT: list[tuple[Any, dict[str, Any]]] = [
    (chat, {"response_format": FORMAT, "reasoning_effort": "none"}),
    (chat, {"response_format": FORMAT, "chat_template_kwargs": {"enable_thinking": False}}),
    (responses, {"text": TEXT_FORMAT, "reasoning": {"effort": "none"}}),
    (messages, {"output_config": OUTPUT_FORMAT, "thinking": {"type": "disabled"}}),
    (ollama, {"format": SCHEMA, "think": False}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("ask", "fields"), BUDGETED, ids=lambda value: getattr(value, "__name__", ""))
def test_structured_output_follows_a_thought(server: Server, ask: Any, fields: dict[str, Any], stream: bool):
    thought, text = ask(server, stream, **fields)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert thought
    assert "think>" not in thought


@pytest.mark.parametrize(("ask", "fields"), WITHOUT, ids=lambda value: getattr(value, "__name__", ""))
def test_a_request_may_skip_the_thought(server: Server, ask: Any, fields: dict[str, Any]):
    thought, text = ask(server, False, **fields)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert not thought


def test_what_a_model_can_do_is_that_of_its_template_in_use(server: Server):
    shown = httpx.post(f"{server.url}/api/show", json={"model": "any"}).json()
    assert "thinking" in shown["capabilities"]
