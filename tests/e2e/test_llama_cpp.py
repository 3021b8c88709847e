"""A real server on the llama.cpp engine: the default model's file as its package brings it."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import Server, serve
from tests.processes import PATIENCE

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


SETTINGS = {"CONTEXT_LENGTH": "1024", "PARALLEL": "2"}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, shallow_original_path: Path) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=str(shallow_original_path), **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory, shallow_path: Path) -> Iterator[Server]:
    """The model on ctransformers, with the same context."""
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=str(shallow_path), **SETTINGS) as server:
        yield server


@pytest.fixture(params=["roomy", "native"])
def either_server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


@pytest.fixture
def client(either_server: Server) -> openai.OpenAI:
    return client_of(either_server)


@pytest.fixture(scope="module", params=["default_path", "original_path"], ids=["ctransformers", "llama.cpp"])
def whole_client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client of a server with the whole model."""
    path = request.getfixturevalue(request.param)
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=str(path), **SETTINGS) as server:
        yield client_of(server)


def test_the_engine_and_its_reason_are_shown(native: Server):
    health = httpx.get(f"{native.url}/health").json()
    model = httpx.get(f"{native.url}/v1/models").json()["data"][0]
    for shown in (health, model):
        assert shown["engine"] == "llama.cpp"
        assert "ctransformers cannot run" in shown["engine_reason"]
    assert "ctransformers cannot run" in native.log("model.log")


def test_chats_whole_and_streamed_are_the_same(client: openai.OpenAI):
    chat = {"model": "any", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**chat)
    chunks = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


def only_call(client: openai.OpenAI, chat: dict, stream: bool):
    """Return the only call in the answer to a chat."""
    if stream:
        with client.chat.completions.stream(**chat) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**chat).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    return call


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_made_is_made(client: openai.OpenAI, choice, stream: bool):
    chat = {
        "model": "any",
        "messages": QUESTION,
        "tools": [WEATHER] if choice == "required" else [TIME, WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
    }
    call = only_call(client, chat, stream)
    assert call.function.name == "get_weather"
    assert call.id
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("celsius", "kelvin")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_the_model_makes_by_itself_is_told_apart(whole_client: openai.OpenAI, stream: bool):
    messages: list[dict] = []
    for city in ("Rome", "Oslo", "Lima"):  # a small model repeats itself
        call = {"name": "get_weather", "arguments": json.dumps({"city": city, "unit": "celsius"})}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": city, "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": city, "content": "Sunny."},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    chat = {"model": "any", "messages": [*messages, *QUESTION], "tools": [TIME, WEATHER], "temperature": 0}
    call = only_call(whole_client, chat, stream)
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris", "unit": "celsius"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_gives_what_there_is(whole_client: openai.OpenAI, stream: bool):
    chat = {"model": "any", "messages": QUESTION, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 25}
    if stream:
        chunks = [
            chunk.choices[0] for chunk in whole_client.chat.completions.create(**chat, temperature=0, stream=True)
        ]
        calls = [call for choice in chunks for call in choice.delta.tool_calls or ()]
        assert (calls[0].id, calls[0].function.name, len(calls) > 1) == (calls[0].id, "get_weather", True)
        arguments, reason = "".join(call.function.arguments for call in calls), chunks[-1].finish_reason
    else:
        choice = whole_client.chat.completions.create(**chat, temperature=0).choices[0]
        (call,) = choice.message.tool_calls
        assert call.function.name == "get_weather"
        arguments, reason = call.function.arguments, choice.finish_reason
    assert arguments.startswith('{"city": "')
    assert reason == "length"


def test_tools_may_be_left_alone_and_results_go_back(client: openai.OpenAI):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 24 degrees."},
    ]
    chat = {"model": "any", "messages": messages, "temperature": 0, "max_tokens": 20}
    with_tools = client.chat.completions.create(**chat, tools=[WEATHER])
    without = client.chat.completions.create(**chat, tools=[WEATHER], tool_choice="none")
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens > 40


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_json_schema(client: openai.OpenAI, stream: bool):
    chat = {
        "model": "any",
        "messages": [{"role": "user", "content": "Invent a person."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
        "max_tokens": 100,
    }
    if stream:
        chunks = client.chat.completions.create(**chat, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = client.chat.completions.create(**chat).choices[0].message.content
    person = json.loads(text)
    assert person.keys() == {"name", "age"}
    assert 0 <= person["age"] <= 150


@pytest.mark.parametrize("first", ["<", "{"])
def test_an_answer_calls_or_follows_the_response_format(either_server: Server, first: str):
    def of(name: str, value: str) -> dict:
        return {"type": "object", "properties": {name: {"enum": [value]}}, "required": [name]}

    token = httpx.post(f"{either_server.url}/tokenize", json={"content": first}).json()["tokens"][0]
    body = {
        "messages": QUESTION,
        "max_tokens": 60,
        "temperature": 0,
        "logit_bias": {token: 60},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": of("colour", "red")}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": of("city", "Bern")}}],
        "parallel_tool_calls": False,
    }
    answered = httpx.post(f"{either_server.url}/v1/chat/completions", json=body, timeout=60)
    choice = answered.json()["choices"][0]
    if first == "{":
        assert (choice["message"]["content"], choice["finish_reason"]) == ('{"colour": "red"}', "stop")
        assert "tool_calls" not in choice["message"]
    else:
        assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"city": "Bern"}'}


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param({"type": "wat"}, id="unknown type"),
        pytest.param({"$ref": "#/nowhere"}, id="dangling reference"),
        pytest.param(json.loads("[" * 400 + "]" * 400), id="too deep"),
        pytest.param({"title": "\ud800"}, id="half a character"),
    ],
)
@pytest.mark.parametrize("place", ["response_format", "tools", "required tools"])
def test_a_schema_that_cannot_be_followed_is_refused_and_costs_no_slot(either_server: Server, place: str, inner):
    schema = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    fields: dict = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    if place != "response_format":
        fields = {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
    if place == "required tools":
        fields["tool_choice"] = "required"
    body = json.dumps({"messages": QUESTION, "max_tokens": 5, **fields})
    answer = httpx.post(f"{either_server.url}/v1/chat/completions", content=body)
    if place == "tools" and ("$ref" in inner or "type" in inner):  # an answer need not call: the arguments are free
        assert answer.status_code == 200, answer.text
    else:
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{either_server.url}/health").json()["slots_idle"] == 2


def test_embeddings(native: Server):
    client = openai.OpenAI(base_url=f"{native.url}/v1", api_key="none")
    whole = client.embeddings.create(model="any", input=["a cat", "a dog"])  # the client asks for base64
    assert [item.index for item in whole.data] == [0, 1]
    assert sum(value * value for value in whole.data[0].embedding) == pytest.approx(1, abs=1e-4)
    assert whole.usage.total_tokens == 4
    answer = httpx.post(f"{native.url}/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"}).json()
    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw)[:3] == pytest.approx(whole.data[0].embedding[:3], abs=1e-3)
    for body in ({"input": ""}, {"input": []}, {"input": [[]]}, {"input": "a", "dimensions": 5}, {"input": [10**6]}):
        refused = httpx.post(f"{native.url}/v1/embeddings", json=body)
        assert refused.status_code == 400, body
        assert refused.json()["error"]["message"]


@pytest.fixture(params=["server", "native"])
def any_server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def test_tokens_there_and_back(any_server: Server):
    def post(path: str, **body):
        return httpx.post(f"{any_server.url}{path}", json=body).json()

    text = "Hello<|im_end|> 世"
    tokens = post("/tokenize", content=text)["tokens"]
    assert post("/detokenize", tokens=tokens) == {"content": text, "prompt": text}
    assert len(post("/tokenize", content=text, parse_special=False)["tokens"]) > len(tokens)
    pieces = post("/tokenize", content=text, with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    assert pieces[:2] == [{"id": tokens[0], "piece": "Hello"}, {"id": 2, "piece": "<|im_end|>"}]
    joined = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert joined.decode() == text
    assert post("/detokenize", tokens=[10**6])["error"]["code"] == "invalid_token"
    prompt = post("/apply-template", messages=[{"role": "user", "content": "Hi"}])["prompt"]
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_embeddings_on_ctransformers(server: Server):
    answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": ["a cat", "a dog"]}).json()
    assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


def test_it_ends_cleanly(tmp_path: Path, shallow_original_path: Path):
    with serve(tmp_path, MODEL_PATH=str(shallow_original_path), CONTEXT_LENGTH="256", PARALLEL="1") as server:
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
        server.process.terminate()
        server.process.wait(PATIENCE)
    assert server.process.returncode == 0
    logged = server.log("main.log") + server.log("model.log")
    assert [line for line in server.log("console").splitlines() if line not in logged] == []  # none of llama.cpp's own


@pytest.mark.parametrize("reference", ["<[5]>", "!<[5]>", "<[999999]>", "!<think>*", "<|im_end|>"])
def test_a_grammar_that_names_tokens_is_refused_and_ends_nothing(any_server: Server, reference: str):
    body = {"prompt": "Hi", "max_tokens": 3, "grammar": f'root ::= "a" {reference}'}
    answer = httpx.post(f"{any_server.url}/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar")
    assert httpx.get(f"{any_server.url}/health").status_code == 200
