"""Deltas become Anthropic's events, which its client accumulates to the same message that comes whole."""

from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.anthropic.writer import MessageWriter
from ggserve.errors import GenerationError
from ggserve.generation import Citation, Delta
from ggserve.messages import ToolCallDelta
from tests.api import streams

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def new_writer(**fields: Any) -> MessageWriter:
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return MessageWriter(MessagesRequest.model_validate(body), "tiny", 100)


def answer(*deltas: Delta, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events, and the whole message."""
    return streams.events(new_writer(**fields), *deltas), streams.whole(new_writer(**fields), *deltas)


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            message = accumulate_event(event=EVENT.validate_python(event), current_snapshot=message, json_bufs=buffers)
    shown: dict[str, Any] = message.model_dump(exclude_none=True)
    return shown


def delta(text: str = "", tokens: int = 1, **fields: Any) -> Delta:
    return Delta(text, 7, 3, tokens, **fields)


THOUGHT_AND_CALLS = (
    delta(reasoning="Hm", tokens=2),
    delta("Well", tokens=3),
    delta(tokens=4, tool_calls=(ToolCallDelta(0, "", "c1", "now"), ToolCallDelta(0, '{"zone": '))),
    delta(tokens=5, tool_calls=(ToolCallDelta(0, '"UTC"}'), ToolCallDelta(1, "", "c2", "now"))),
    delta(tokens=6, finish_reason="tool_calls"),
)


def test_streamed_equals_whole_and_the_client_s_types_take_both() -> None:
    events, message = answer(*THOUGHT_AND_CALLS)
    assert accumulated(events) == Message.model_validate(message | {"id": events[0]["message"]["id"]}).model_dump(
        exclude_none=True
    )
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "ggserve"},
        {"type": "text", "text": "Well"},
        {"type": "tool_use", "id": "c1", "name": "now", "input": {"zone": "UTC"}},
        {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 6,
        "output_tokens_details": {"thinking_tokens": 2},
    }


def test_the_order_of_events() -> None:
    events, _ = answer(*THOUGHT_AND_CALLS)
    shown = [event.get("delta", {}).get("type") or event["type"] for event in events]
    assert shown == [
        *("message_start", "ping"),
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "input_json_delta", "content_block_stop"),
        *("content_block_start", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        ({"finish_reason": "stop"}, "end_turn", None),
        ({"finish_reason": "stop", "stop_sequence": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "stop_sequence": "\nUser:"}, "end_turn", None),
        ({"finish_reason": "length", "tokens": 9}, "max_tokens", None),
        ({"finish_reason": "length", "tokens": 8}, "max_tokens", None),  # the server's own limit
        ({"finish_reason": "length", "tokens": 93}, "model_context_window_exceeded", None),
    ],
)
def test_why_it_ended(last: dict[str, Any], reason: str, sequence: str | None) -> None:
    events, message = answer(delta("a", **last), stop_sequences=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_an_answer_without_tokens_has_no_blocks() -> None:
    events, message = answer(Delta("", 3, 0, 0, "length"), max_tokens=0)
    assert message["content"] == []
    assert accumulated(events)["stop_reason"] == "max_tokens"


def test_arguments_that_were_cut_off_count_as_far_as_they_came() -> None:
    call = ToolCallDelta(0, '{"a": [1, 2', "c", "f")
    _, message = answer(delta(tool_calls=(call,), finish_reason="length", tokens=9))
    assert message["content"][0]["input"] == {"a": [1, 2]}
    assert message["stop_reason"] == "max_tokens"


def test_a_failure_is_an_error_event() -> None:
    *_, failed = streams.events(new_writer(), delta("a"), error=GenerationError("broke"))
    assert failed == {"type": "error", "error": {"type": "api_error", "message": "broke"}}


CITED = (
    delta("It says: ", tokens=2),
    delta("the dog ", tokens=3, quotation=0),
    delta("sleeps", tokens=4, quotation=0),
    delta(tokens=4, quotation=0, citation=Citation(1, "Dogs", 5, 19, "the dog sleeps")),
    delta(".", tokens=5, finish_reason="stop"),
)


def test_a_quotation_is_a_block_with_its_citation_streamed_and_whole() -> None:
    events, message = answer(*CITED)
    assert accumulated(events) == Message.model_validate(message | {"id": events[0]["message"]["id"]}).model_dump(
        exclude_none=True
    )
    said, cited, rest = message["content"]
    assert (said["text"], cited["text"], rest["text"]) == ("It says: ", "the dog sleeps", ".")
    assert "citations" not in said
    (citation,) = cited["citations"]
    assert (citation["type"], citation["document_index"], citation["document_title"]) == ("char_location", 1, "Dogs")
    assert (citation["start_char_index"], citation["end_char_index"]) == (5, 19)
    assert citation["cited_text"] == cited["text"]
    assert [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"].count(
        "citations_delta"
    ) == 1
