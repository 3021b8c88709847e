"""Anthropic's messages become a chat that templates take."""

from collections.abc import Iterable
from typing import Any

import pytest

from ggserve.api.anthropic import conversation as conversation_module
from ggserve.api.anthropic.conversation import conversation
from ggserve.api.anthropic.schemas import PromptRequest


def converted(*messages: dict[str, Any], **fields: Any) -> tuple[list[dict[str, Any]], str]:
    messages, begun, _ = conversation(PromptRequest.model_validate({"messages": list(messages), **fields}))
    return messages, begun


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def test_system_as_text_and_as_blocks() -> None:
    assert converted(user("Hi"), system="Be brief.")[0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    blocks = [{**text("Be brief."), "cache_control": {"type": "ephemeral"}}, text("Be kind.")]
    assert converted(user("Hi"), system=blocks)[0][0]["content"] == "Be brief.\n\nBe kind."


def test_a_billing_header_changes_no_prompt() -> None:
    prompts = [
        converted(user("Hi"), system=[text(f"x-anthropic-billing-header: cc_version=2.1; cch={cch};"), text("Help.")])
        for cch in ("a8e6f", "00bb1")
    ]
    assert prompts[0] == prompts[1]
    assert prompts[0][0][0]["content"] == "Help."


def test_a_tool_s_round_trip() -> None:
    messages, begun = converted(
        user("What time is it?"),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I must look.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                text("Let me see."),
                {"type": "tool_use", "id": "t1", "name": "now", "input": {"zone": "UTC"}},
                {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
            ],
        },
        user(
            [
                {"type": "tool_result", "tool_use_id": "t1", "content": "12:00"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [text("no"), text("zone")], "is_error": True},
                {"type": "tool_result", "tool_use_id": "t3"},
                text("And now?"),
            ]
        ),
    )
    assert messages == [
        {"role": "user", "content": "What time is it?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I must look.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}},
                {"id": "t2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "12:00"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no\nzone"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": "And now?"},
    ]
    assert begun == ""


def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer() -> None:
    assert converted(user("Name?"), {"role": "assistant", "content": [text("My name is")]}) == (
        [{"role": "user", "content": "Name?"}],
        "My name is",
    )


@pytest.mark.parametrize("role", ["system", "ctx", "msg"])
def test_other_roles_between_turns_are_the_user_s_and_turns_alternate(role: str) -> None:
    turns = [user("a"), {"role": role, "content": "b"}, user("c"), {"role": "assistant", "content": "d"}, user("e")]
    messages, _ = converted(*turns)
    assert [(m["role"], m["content"]) for m in messages] == [("user", "a\nb\nc"), ("assistant", "d"), ("user", "e")]


def test_a_system_message_at_the_start_is_the_system_prompt() -> None:
    messages, _ = converted({"role": "system", "content": "b"}, user("c"), system="a")
    assert messages[0] == {"role": "system", "content": "a\n\nb"}


def test_documents_and_search_results_are_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Once."}
    document = {"type": "document", "source": source, "title": "T"}
    found = {"type": "search_result", "title": "S", "source": "http://s", "content": [text("found")]}
    messages, _ = converted(user([document, found, text("Well?")]))
    assert messages[0]["content"] == "T\nOnce.\nS\nhttp://s\nfound\nWell?"


def test_the_texts_of_many_messages_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = 0

    def counting(texts: Iterable[str]) -> str:
        nonlocal joined
        parts = [text for text in texts if text]
        joined += sum(map(len, parts))
        return "\n".join(parts)

    monkeypatch.setattr(conversation_module, "_joined", counting)
    messages = [{"role": "user", "content": "x" * 100}] * 1000
    (message,), _, _ = conversation(PromptRequest.model_validate({"messages": messages}))
    assert len(message["content"]) == 1000 * 101 - 1
    assert joined <= 3 * 100 * 1000
