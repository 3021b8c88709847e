"""Items become a chat."""

from typing import Any

import pytest
from pydantic import ValidationError

from ggserve.api.openai.responses import endpoint
from ggserve.api.openai.responses.conversation import chat_messages
from ggserve.api.openai.responses.items import ITEM, ItemReference
from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.openai.responses.store import ResponseStore


def converted(*items: dict[str, Any], instructions: str | None = None) -> list[dict[str, Any]]:
    return chat_messages(instructions, [ITEM.validate_python(item) for item in items])


def test_a_tool_s_round_trip() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "now", "arguments": '{"zone": "UTC"}'}
    messages = converted(
        {"role": "user", "content": "What time is it?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        call,
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "12:00"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "13:00"}]},
        {**call, "call_id": "c3"},
        instructions="Help.",
    )
    function = {"name": "now", "arguments": '{"zone": "UTC"}'}
    calls = [{"id": f"c{number}", "type": "function", "function": function} for number in (1, 2, 3)]
    assert messages == [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm", "tool_calls": calls[:2]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        {"role": "tool", "tool_call_id": "c2", "content": "13:00"},
        {"role": "assistant", "content": "", "tool_calls": calls[2:]},
    ]


def test_a_thought_before_a_call_is_the_call_s() -> None:
    messages = converted(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"},
    )
    assert messages[0]["reasoning_content"] == "Hm"
    assert messages[0]["tool_calls"][0]["id"] == "c"


def test_instructions_and_a_developer_s_message_are_one_system_message() -> None:
    messages = converted(
        {"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}, instructions="Be brief."
    )
    assert [(m["role"], m["content"]) for m in messages] == [("system", "Be brief.\n\nBe kind."), ("user", "Hi")]


def test_an_item_that_is_referred_to_a_thousand_times_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResponseStore()
    kept = {"type": "message", "role": "user", "content": "Hi", "id": "msg_1"}
    store.put({"id": "resp_1", "previous_response_id": None, "output": []}, [kept])
    reads: list[str] = []
    read = store.item
    monkeypatch.setattr(store, "item", lambda key: reads.append(key) or read(key))
    references = [ItemReference(type="item_reference", id="msg_1")] * 1000
    items = endpoint._resolved(references, store)
    assert len(items) == 1000
    assert reads == ["msg_1"]


@pytest.mark.parametrize("field", ["metadata", "user", "prompt_cache_key", "safety_identifier"])
def test_what_a_response_is_kept_with_is_short(field: str) -> None:
    value: Any = {"note": "x" * 600} if field == "metadata" else "x" * 600
    with pytest.raises(ValidationError, match="at most"):
        ResponsesRequest.model_validate({"input": "Hi", field: value})
