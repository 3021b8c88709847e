"""A coding agent on the Messages API: twenty tools, a system prompt in blocks, results that go back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.conftest import Server, serve
from tests.processes import PATIENCE

NAMES = ("Read", "Write", "Edit", "Glob", "Grep", "Bash", "Task", "LS", "WebFetch", "TodoWrite")
TOOLS: Any = [
    {
        "name": f"{name}{suffix}",
        "description": f"{name} a path.",
        "input_schema": {
            "type": "object",
            "properties": {"path": {"type": "string", "maxLength": 20}},
            "required": ["path"],
            "additionalProperties": False,
        },
    }
    for suffix in ("", "Many")
    for name in NAMES
]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, shallow_original_path: Path) -> Iterator[Server]:
    settings = {"MODEL_PATH": str(shallow_original_path), "CONTEXT_LENGTH": "4096", "PARALLEL": "1"}
    with serve(tmp_path_factory.mktemp("logs"), **settings) as server:
        yield server


def system(cch: str) -> Any:
    return [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={cch};"},
        {"type": "text", "text": "You help with code.", "cache_control": {"type": "ephemeral"}},
    ]


def test_twenty_tools_over_several_turns_and_the_prefix_is_reused(native: Server):
    client = anthropic.Anthropic(base_url=native.url, api_key="none", max_retries=0, timeout=PATIENCE)
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is in main.py?"}]}]
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}  # a small model calls without end
    fields: dict[str, Any] = {"model": "any", "max_tokens": 120, "tools": TOOLS, "extra_body": {"temperature": 0}}
    with client.beta.messages.stream(messages=messages, system=system("a8e6f"), tool_choice=choice, **fields) as stream:
        first = stream.get_final_message()
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert calls and all(call.name in {tool["name"] for tool in TOOLS} for call in calls)
    assert all(set(call.input) == {"path"} for call in calls)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "print('hi')"} for call in calls]
    messages += [
        {
            "role": "assistant",
            "content": [block.model_dump(include={"type", "id", "name", "input"}) for block in calls],
        },
        {"role": "user", "content": results},
    ]
    counted = client.messages.count_tokens(model="any", messages=messages, system=system("00bb1"), tools=TOOLS)
    second = client.beta.messages.create(messages=messages, system=system("00bb1"), **{**fields, "max_tokens": 5})
    usage = second.usage
    assert usage.cache_read_input_tokens is not None
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens
    assert usage.cache_read_input_tokens > counted.input_tokens // 2  # tools and system were cached
