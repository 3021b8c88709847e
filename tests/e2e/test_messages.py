"""The `anthropic` client against a real server on each engine."""

import json
from collections.abc import Iterator

import anthropic
import httpx
import pytest

from ggserve.hub.default import packaged_model
from tests.conftest import Server, serve

SEA = [{"role": "user", "content": "Write one sentence about the sea."}]
GREEDY = {"model": "claude-any", "max_tokens": 12, "extra_body": {"temperature": 0}}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["celsius", "kelvin"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def server(whole_server: Server) -> Server:
    return whole_server


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    logs = tmp_path_factory.mktemp("logs")
    with serve(logs, MODEL_PATH=str(packaged_model()), CONTEXT_LENGTH="1024", PARALLEL="1") as server:
        yield server


@pytest.fixture(params=["server", "native"])
def any_server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def client_of(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def client(any_server: Server) -> anthropic.Anthropic:
    return client_of(any_server)


@pytest.fixture
def native_client(native: Server) -> anthropic.Anthropic:
    return client_of(native)


def test_a_message_whole_and_streamed(client: anthropic.Anthropic):
    whole = client.messages.create(messages=SEA, **GREEDY)
    assert whole.content[0].text.startswith("The sea is a vast and mysterious realm")
    assert (whole.type, whole.role, whole.stop_reason) == ("message", "assistant", "max_tokens")
    assert whole.usage.output_tokens == 12
    with client.messages.stream(messages=SEA, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == whole.content[0].text == streamed.content[0].text
    assert streamed.usage.cache_read_input_tokens > 0  # it was the same prompt
    total = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert total == streamed.usage.input_tokens + streamed.usage.cache_read_input_tokens
    assert total == client.messages.count_tokens(model="any", messages=SEA).input_tokens


def test_the_stop_sequence_that_was_met_is_told(client: anthropic.Anthropic):
    fields = {"messages": SEA, "stop_sequences": ["zzz", " mysterious"], **GREEDY}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " mysterious")
        assert message.content[0].text == "The sea is a vast and"


def test_an_answer_goes_on_from_a_prefilled_one(client: anthropic.Anthropic):
    messages = [*SEA, {"role": "assistant", "content": "The sea is a vast and"}]
    rest = client.messages.create(messages=messages, **GREEDY)
    assert rest.content[0].text.startswith(" mysterious realm")
    counted = client.messages.count_tokens(model="any", messages=messages).input_tokens
    assert counted == rest.usage.input_tokens + rest.usage.cache_read_input_tokens


def test_events_come_in_anthropic_s_order(any_server: Server):
    body = {"messages": SEA, "max_tokens": 3, "temperature": 0, "stream": True}
    answer = httpx.post(f"{any_server.url}/v1/messages?beta=true", json=body, headers={"x-api-key": "none"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert names == [event["type"] for event in data]
    deltas = [name for name in names if name == "content_block_delta"]
    assert names == [
        *("message_start", "ping", "content_block_start"),
        *deltas,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert data[0]["message"]["usage"]["input_tokens"] + data[0]["message"]["usage"]["cache_read_input_tokens"] > 30


def test_errors_come_in_anthropic_s_envelope(client: anthropic.Anthropic, any_server: Server):
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(model="any", max_tokens=5, messages=[{"role": "user", "content": "a b " * 2000}])
    assert error.value.body["error"]["type"] == "invalid_request_error"
    assert "maximum context length" in error.value.body["error"]["message"]
    for path, body, status, kind, said in (
        ("messages", b'{"messages": [{"role": "user", "content": "Hi"}]}', 400, "invalid_request_error", "max_tokens"),
        ("messages", b"not JSON", 400, "invalid_request_error", "JSON"),
        ("messages/count_tokens", b'{"messages": 5}', 400, "invalid_request_error", "messages"),
        ("messages/batches", b"{}", 404, "not_found_error", "/v1/messages/batches"),
    ):
        answer = httpx.post(f"{any_server.url}/v1/{path}", content=body)
        assert answer.status_code == status
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)
        assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_and_its_result(native_client: anthropic.Anthropic, stream: bool):
    fields = {
        "model": "any",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{**WEATHER, "name": f"tool_{index}"} for index in range(3)] + [WEATHER],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "system": [{"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}}],
        "extra_body": {"temperature": 0},
    }
    if stream:
        with native_client.messages.stream(**fields) as events:
            message = events.get_final_message()
    else:
        message = native_client.messages.create(**fields)
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert call.name == "get_weather"
    assert call.input["unit"] in ("celsius", "kelvin")
    fields["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 24 degrees."}]},
    ]
    after = native_client.messages.create(**fields | {"tool_choice": {"type": "none"}, "max_tokens": 5})
    assert after.content[0].type == "text"


def test_tools_are_counted(native_client: anthropic.Anthropic):
    fields = {"model": "any", "messages": SEA, "tools": [WEATHER]}
    counted = native_client.messages.count_tokens(**fields).input_tokens
    usage = native_client.messages.create(**fields, max_tokens=1).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_an_answer_follows_a_schema(native_client: anthropic.Anthropic):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["age"],
        "additionalProperties": False,
    }
    message = native_client.messages.create(
        model="any",
        max_tokens=50,
        messages=[{"role": "user", "content": "Invent a person."}],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert 0 <= json.loads(message.content[0].text)["age"] <= 150
