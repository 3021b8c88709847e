"""Deltas become events of the Responses API, which OpenAI's client accumulates to the response that comes whole."""

from typing import Any

import orjson
import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.openai.responses.writer import ResponseWriter
from ggserve.errors import GenerationError
from ggserve.generation import Delta, ScoredToken
from ggserve.messages import ToolCallDelta
from tests.api import streams

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}, "strict": True}


class Made:
    """The events and the response made from an answer's deltas."""

    def __init__(self, *deltas: Delta, error: Exception | None = None, **fields: Any) -> None:
        self.kept: list[dict[str, Any]] = []
        request = ResponsesRequest.model_validate({"input": "Hi", **fields})
        keep = lambda response: self.kept.append(orjson.loads(orjson.dumps(response)))  # noqa: E731
        writer = ResponseWriter(request, request.sampling_params(), "tiny", keep)
        self.events = streams.events(writer, *deltas, error=error)
        other = ResponseWriter(request, request.sampling_params(), "tiny", lambda response: None)
        self.response = streams.whole(other, *deltas)


def delta(text: str = "", tokens: int = 1, **fields: Any) -> Delta:
    return Delta(text, 7, 3, tokens, **fields)


THOUGHT_TEXT_AND_CALLS = (
    delta(reasoning="Hm", tokens=2),
    delta("We", tokens=3),
    delta("ll", tokens=3),
    delta(tokens=4, tool_calls=(ToolCallDelta(0, "", "c1", "now"), ToolCallDelta(0, '{"zone": '))),
    delta(tokens=5, tool_calls=(ToolCallDelta(0, '"UTC"}'), ToolCallDelta(1, "{}", "c2", "now"))),
    delta(tokens=6, finish_reason="tool_calls"),
)


def test_the_client_s_types_and_its_accumulation_take_every_event() -> None:
    made = Made(*THOUGHT_TEXT_AND_CALLS, tools=[TOOL])
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in made.events:
        state.handle_event(EVENT.validate_python(event))
    response = Response.model_validate(made.response)
    assert response.output_text == "Well"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [event["sequence_number"] for event in made.events] == list(range(len(made.events)))
    assert made.kept == [made.events[-1]["response"]]
    assert [item["type"] for item in made.kept[0]["output"]] == [item["type"] for item in made.response["output"]]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert response.usage.input_tokens_details.cached_tokens == 3


def test_the_order_of_events() -> None:
    made = Made(*THOUGHT_TEXT_AND_CALLS, tools=[TOOL])
    assert [event["type"].removeprefix("response.") for event in made.events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_every_event_of_an_item_names_it() -> None:
    made = Made(*THOUGHT_TEXT_AND_CALLS)
    ids = [item["id"] for item in made.events[-1]["response"]["output"]]
    assert len(set(ids)) == 4
    for event in made.events:
        if "output_index" in event:
            assert event.get("item_id", event.get("item", {}).get("id")) == ids[event["output_index"]]


def test_nothing_said_is_an_empty_message() -> None:
    response = Made(delta(finish_reason="stop")).response
    assert [item["content"][0]["text"] for item in response["output"]] == [""]
    assert response["status"] == "completed"


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    made = Made(delta(reasoning="Hm"), delta("We", finish_reason="length"))
    response = made.response
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert made.events[-1]["type"] == "response.incomplete"


def test_a_failure_keeps_what_came_and_is_the_last_event() -> None:
    made = Made(delta("We"), error=GenerationError("broke"))
    event = made.events[-1]
    assert EVENT.validate_python(event).response.error.message == "broke"
    assert (event["type"], event["response"]["id"]) == ("response.failed", made.events[0]["response"]["id"])
    assert made.kept == []


def test_log_probabilities_go_with_the_text_that_they_are_of() -> None:
    def token(text: str) -> ScoredToken:
        return ScoredToken(1, text.encode(), -0.5, (ScoredToken(1, text.encode(), -0.5),))

    deltas = (
        Delta("", 7, 3, 1, tokens=(token("W"),)),
        Delta("Well", 7, 3, 2, tokens=(token("ell"),)),
        Delta("", 7, 3, 3, "stop", tokens=(token("x"), ScoredToken(2, b"<end>", -0.1, control=True))),
    )
    made = Made(*deltas, include=["message.output_text.logprobs"], top_logprobs=1)
    pieces = [event["logprobs"] for event in made.events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in piece] for piece in pieces] == [["W", "ell"]]
    text = Response.model_validate(made.response).output[0].content[0]  # type: ignore[union-attr]
    assert [token.token for token in text.logprobs] == ["W", "ell", "x"]  # type: ignore[union-attr]


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "name": "now"}])
def test_what_was_asked_for_is_echoed(choice: Any) -> None:
    fields = {"instructions": "Be brief.", "tools": [TOOL], "tool_choice": choice, "metadata": {"a": "b"}, "top_p": 0.5}
    response = Made(delta("a", finish_reason="stop"), **fields).response
    assert Response.model_validate(response).tools[0].name == "now"  # type: ignore[union-attr]
    shown = {name: response[name] for name in ("instructions", "tool_choice", "metadata", "top_p")}
    assert shown == {name: fields[name] for name in shown}
    assert response["text"]["format"]["type"] == "text"
