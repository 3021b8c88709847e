"""Deltas become Ollama's lines of JSON, which its client's types take."""

from typing import Any

import ollama
import pytest
from pydantic import ValidationError

from ggserve.api.ollama.generation import chat_messages
from ggserve.api.ollama.schemas import ChatRequest, Options
from ggserve.api.ollama.writer import OllamaWriter
from ggserve.api.record import RequestRecord
from ggserve.generation import Delta, ScoredToken
from ggserve.messages import ToolCallDelta
from tests.api.state import app_state, limits
from tests.api.streams import events
from tests.api.streams import whole as written_whole


def delta(text: str = "", tokens: int = 1, **fields: Any) -> Delta:
    return Delta(text, 7, 3, tokens, **fields)


def made(*deltas: Delta, chat: bool = True, scored: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the lines, and the answer in one."""

    def writer() -> OllamaWriter:
        record = RequestRecord("id", "POST", "/api/chat", app_state().metrics, limits())
        return OllamaWriter("tiny", record, chat=chat, scored=scored)

    return events(writer(), *deltas), written_whole(writer(), *deltas)


def test_thoughts_text_and_calls() -> None:
    lines, whole = made(
        delta(reasoning="Hm"),
        delta("Well", tokens=2),
        delta(tool_calls=(ToolCallDelta(0, '{"a": ', "c1", "f"),)),
        delta(tool_calls=(ToolCallDelta(0, "1}"), ToolCallDelta(1, "{}", "c2", "g"))),
        delta(tokens=4, finish_reason="tool_calls"),
    )
    for line in (*lines, whole):
        ollama.ChatResponse.model_validate(line)
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"name": "g", "arguments": {}}},
    ]
    assert whole["message"] == {"role": "assistant", "content": "Well", "thinking": "Hm", "tool_calls": calls}
    assert [call for line in lines for call in line["message"].get("tool_calls", [])] == calls
    assert "".join(line["message"]["content"] for line in lines) == "Well"
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert (whole["prompt_eval_count"], whole["eval_count"], whole["done_reason"]) == (7, 4, "stop")


def test_durations_add_up() -> None:
    _, whole = made(delta("a"), delta("b", finish_reason="stop"))
    parts = whole["load_duration"] + whole["prompt_eval_duration"] + whole["eval_duration"]
    assert abs(whole["total_duration"] - parts) < 1000  # nanoseconds: each is rounded down


def test_a_text_with_log_probabilities() -> None:
    token = ScoredToken(1, b"a", -0.5, (ScoredToken(1, b"a", -0.5),))
    lines, whole = made(Delta("a", 7, 3, 1, "length", tokens=(token,)), chat=False, scored=True)
    assert ollama.GenerateResponse.model_validate(whole).logprobs[0].token == "a"  # type: ignore[index]
    assert lines[0]["logprobs"] == whole["logprobs"]
    assert (whole["response"], whole["done_reason"]) == ("a", "length")


def test_results_keep_what_tells_their_calls() -> None:
    call = {"function": {"name": "now", "arguments": {"zone": "UTC"}}}
    request = ChatRequest.model_validate(
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [call, call]},
                {"role": "tool", "content": "1", "tool_name": "now"},
                {"role": "tool", "content": "2", "tool_call_id": "b"},
            ]
        }
    )
    messages = chat_messages(request.messages)
    assert messages[1]["reasoning_content"] == "Hm"
    assert messages[1]["tool_calls"][0]["function"] == {"name": "now", "arguments": '{"zone":"UTC"}'}
    assert [(message["tool_call_id"], message["name"]) for message in messages[2:]] == [(None, "now"), ("b", None)]


@pytest.mark.parametrize(("limit", "expected"), [(5, 5), (5.0, 5), (-1, None), (-2, None), (None, None)])
def test_the_number_of_tokens(limit: Any, expected: int | None) -> None:
    request = ChatRequest.model_validate({"options": {"num_predict": limit, "num_ctx": 99, "stop": "x"}})
    assert request.sampling_params().max_tokens == expected
    assert request.sampling_params().stop == ("x",)


@pytest.mark.parametrize("penalty", [1e-300, 0.0, 11.0])
def test_a_penalty_that_no_logits_survive_is_refused(penalty: float) -> None:
    with pytest.raises(ValidationError, match="repeat_penalty"):
        Options(repeat_penalty=penalty)
