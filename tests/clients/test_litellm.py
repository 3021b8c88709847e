"""LiteLLM, as an OpenAI server and as Ollama."""

import json
from typing import Any

import litellm
import pytest

MESSAGES = [{"role": "user", "content": "Write one sentence about the sea."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def fields(url: str) -> dict[str, Any]:
    return {"model": "openai/default", "api_base": url, "api_key": "none", "temperature": 0, "max_tokens": 40}


def test_a_chat_whole_and_streamed(fields: dict[str, Any]):
    whole = litellm.completion(messages=MESSAGES, **fields).choices[0].message.content
    pieces = litellm.completion(messages=MESSAGES, stream=True, **fields)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    assert "sea" in whole


def test_a_tool_is_called(fields: dict[str, Any]):
    one = {"tool_choice": "required", "parallel_tool_calls": False}  # a small model makes calls without end
    answer = litellm.completion(messages=MESSAGES, tools=[WEATHER], **one, **fields)
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_ollamas_way(fields: dict[str, Any]):
    base = fields["api_base"].removesuffix("/v1")
    asked = {**fields, "model": "ollama_chat/default", "api_base": base}
    assert "sea" in litellm.completion(messages=MESSAGES, **asked).choices[0].message.content
