"""The first message of a chat with dozens of tools is answered with defaults, and later ones find the tools cached."""

from typing import Any

import httpx
import pytest

from tests.conftest import serve
from tests.shallow_model import write_shallow_model

WORDS = "The text that this tool works on, with all that it needs to know about it. "
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": WORDS * 5,
            "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": WORDS}}},
        },
    }
    for number in range(36)
]


@pytest.mark.parametrize("source", ["default_path", "original_path"], ids=["ctransformers", "llama.cpp"])
def test_tools_of_more_than_4096_tokens_are_evaluated_once(source, request, tmp_path):
    path = write_shallow_model(request.getfixturevalue(source), tmp_path / "model.gguf", layers=1)
    with serve(tmp_path, MODEL_PATH=str(path)) as server, httpx.Client(base_url=server.url, timeout=500) as client:

        def ask(*texts: str) -> dict[str, Any]:
            roles = ("user", "assistant")
            messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
            body = {"messages": messages, "tools": TOOLS, "max_tokens": 4, "temperature": 0}
            usage: dict[str, Any] = client.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"]
            return usage

        first = ask("Hello")
        assert 4096 < first["prompt_tokens"] < 8192
        for texts in (("Hello", "Hi!", "How are you?"), ("Another chat",)):
            assert ask(*texts)["prompt_tokens_details"]["cached_tokens"] > 4096
