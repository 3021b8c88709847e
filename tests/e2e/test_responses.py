"""The `openai` client's Responses API against a real server on each engine."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from ggserve.hub.default import packaged_model
from tests.conftest import Server, serve

SEA = "Write one sentence about the sea."
GREEDY: dict[str, Any] = {"model": "gpt-any", "max_output_tokens": 12, "temperature": 0}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["celsius", "kelvin"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    logs = tmp_path_factory.mktemp("logs")
    with serve(logs, MODEL_PATH=str(packaged_model()), CONTEXT_LENGTH="1024", PARALLEL="1") as server:
        yield server


@pytest.fixture(params=["whole_server", "native"])
def any_server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(any_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{any_server.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def native_client(native: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{native.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_response_whole_and_streamed(client: openai.OpenAI):
    whole = client.responses.create(input=SEA, **GREEDY)
    assert whole.output_text.startswith("The sea is a vast and mysterious realm")
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 12
    assert whole.usage.total_tokens == whole.usage.input_tokens + 12
    counted = client.responses.input_tokens.count(input=SEA, model="any").input_tokens
    assert counted == whole.usage.input_tokens
    events = list(client.responses.create(input=SEA, stream=True, **GREEDY))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text


def test_events_are_complete_and_in_order(any_server: Server):
    body = {"input": [{"role": "user", "content": SEA}], "max_output_tokens": 200, "temperature": 0, "stream": True}
    answer = httpx.post(f"{any_server.url}/v1/responses", json=body, timeout=60)
    lines = answer.text.splitlines()
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [event["type"] for event in data]
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    deltas = [name for name in names if name == "response.output_text.delta"]
    assert names == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
        *deltas,
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    strict: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in data:
        assert strict.validate_python(event).type == event["type"]


def test_the_stream_helper_takes_it(client: openai.OpenAI):
    with client.responses.stream(model="any", input="Reply with the word yes.", temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert response.status == "completed"
    assert response.output_text == text


def test_a_conversation_goes_on_from_a_response(client: openai.OpenAI):
    first = client.responses.create(input="Count from 1 to 10.", instructions="Be brief.", **GREEDY)
    second = client.responses.create(input="And on to 20.", previous_response_id=first.id, **GREEDY)
    assert second.previous_response_id == first.id
    written_out = client.responses.create(
        input=[
            {"role": "user", "content": "Count from 1 to 10."},
            *[item.model_dump() for item in first.output],
            {"role": "user", "content": "And on to 20."},
        ],
        **GREEDY,
    )
    assert second.output_text == written_out.output_text
    assert second.usage.input_tokens == written_out.usage.input_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text
    (item,) = client.responses.input_items.list(second.id).data
    assert item.content[0].text == "And on to 20."
    reference: Any = {"type": "item_reference", "id": item.id}
    referred = client.responses.create(input=[*written_out.output, reference], **GREEDY)
    assert referred.usage.input_tokens > 0
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="not found") as error:
        client.responses.create(input="More.", previous_response_id=second.id, **GREEDY)
    assert (error.value.param, error.value.code) == ("previous_response_id", "previous_response_not_found")


def test_what_shall_not_be_kept_is_not(client: openai.OpenAI):
    response = client.responses.create(input=SEA, store=False, **GREEDY)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_and_its_result(native_client: openai.OpenAI, stream: bool):
    fields: dict[str, Any] = {
        "model": "any",
        "input": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER, {"type": "web_search"}],
        "temperature": 0,
    }
    forced: dict[str, Any] = {"tool_choice": {"type": "function", "name": "get_weather"}, "max_output_tokens": 200}
    if stream:
        with native_client.responses.stream(**fields, **forced) as events:
            response = events.get_final_response()
    else:
        response = native_client.responses.create(**fields, **forced)
    (call,) = response.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments)["unit"] in ("celsius", "kelvin")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 24 degrees."}
    fields["input"] = [*fields["input"], *response.output, result]
    answered = native_client.responses.create(**fields, max_output_tokens=5, tool_choice="none")
    assert answered.output[0].type == "message"


def test_an_answer_follows_a_schema(native_client: openai.OpenAI):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["age"],
        "additionalProperties": False,
    }
    response = native_client.responses.create(
        model="any",
        input="Invent a person.",
        max_output_tokens=50,
        text={"format": {"type": "json_schema", "name": "person", "schema": schema, "strict": True}},
    )
    assert 0 <= json.loads(response.output_text)["age"] <= 150


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("background", True, "background"),
        ("conversation", "conv_1", "conversation"),
        ("input", 5, "input"),
        ("input", [{"role": "user", "content": 5}], "input.0.content"),
        ("input", [{"role": "user", "content": [{"type": "input_image"}]}], "input.0.content.0"),
        ("input", [{"type": "made_up_call"}], "input.0"),
        ("input", [{"type": "item_reference", "id": "msg_0"}], "input"),
        ("input", [], "input"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("tools", [{"type": "function"}], "tools.0"),
        ("tool_choice", "perhaps", "tool_choice"),
        ("text", {"format": {"type": "json_schema"}}, "text.format"),
        ("metadata", {"a": 1}, "metadata.a"),
        ("stream", "yes", "stream"),
        ("store", 1, "store"),
    ],
)
def test_a_wrong_field_is_named(server: Server, field: str, value: Any, named: str):
    answer = httpx.post(f"{server.url}/v1/responses", json={"input": "Hi", "max_output_tokens": 1, field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == named
