"""The `ollama` client against the real server on the default model."""

import json

import httpx
import ollama
import pytest

from tests.conftest import Server
from tests.processes import PATIENCE

SEA = [{"role": "user", "content": "Write one sentence about the sea."}]
GREEDY = {"temperature": 0, "num_predict": 12, "num_ctx": 256}
BEGINNING = "The sea is a vast and mysterious realm"


@pytest.fixture(scope="module")
def server(whole_server: Server) -> Server:
    return whole_server


@pytest.fixture
def client(server: Server) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=PATIENCE)


@pytest.fixture
def shallow_client(common_server: Server) -> ollama.Client:
    return ollama.Client(host=common_server.url, timeout=PATIENCE)


def test_a_chat_whole_and_streamed(client: ollama.Client):
    whole = client.chat(model="any", messages=SEA, options=GREEDY)
    pieces = list(client.chat(model="any", messages=SEA, options=GREEDY, stream=True))
    assert whole.message.content.startswith(BEGINNING)
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 12)
    assert whole.total_duration >= whole.prompt_eval_duration > 0
    assert whole.eval_duration > 0


def test_streaming_is_the_default(server: Server):
    answer = httpx.post(f"{server.url}/api/chat", json={"messages": SEA, "options": {"num_predict": 2}})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_prompt_with_a_system_and_raw(client: ollama.Client):
    asked = client.generate(model="any", prompt=SEA[0]["content"], options=GREEDY)
    assert asked.response.startswith(BEGINNING)
    with_system = client.generate(model="any", prompt=SEA[0]["content"], system="Say one word only.", options=GREEDY)
    assert with_system.prompt_eval_count != asked.prompt_eval_count
    raw = client.generate(model="any", prompt="def fibonacci(n):", raw=True, options=GREEDY)
    assert raw.response.startswith("\n    if n == 0:")


def test_a_format_holds_the_answer(client: ollama.Client):
    schema = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 99}}, "required": ["age"]}
    schema["additionalProperties"] = False
    answer = client.chat(model="any", messages=SEA, format=schema, options={"num_predict": 40})
    assert json.loads(answer.message.content)["age"] <= 99


def test_embeddings(shallow_client: ollama.Client):
    both = shallow_client.embed(model="default", input=["a cat", "a dog"])
    assert [len(vector) for vector in both.embeddings] == [576, 576]
    short = shallow_client.embed(model="default", input="a cat", dimensions=8).embeddings[0]
    assert sum(number * number for number in short) == pytest.approx(1, abs=1e-5)
    alone = shallow_client.embeddings(model="default", prompt="a cat").embedding
    assert alone == pytest.approx(both.embeddings[0], abs=1e-4)
    assert len(shallow_client.embed(model="default", input="a cat " * 600).embeddings[0]) == 576
    with pytest.raises(ollama.ResponseError, match="maximum context length"):
        shallow_client.embed(model="default", input="a cat " * 600, truncate=False)


def test_texts_are_embedded_by_the_model_that_is_named_only(client: ollama.Client):
    for name in ("smollm2-135m-instruct.q4_1:latest", "default"):
        assert client.embed(model=name, input="a cat").embeddings
    for embed in (client.embed, client.embeddings):
        with pytest.raises(ollama.ResponseError, match="nomic-embed-text") as error:
            embed("nomic-embed-text", "a cat")
        assert error.value.status_code == 404


def test_a_chat_that_is_too_long_drops_its_oldest_turns_and_no_system_message(
    shallow_client: ollama.Client, common_server: Server
):
    turn = [{"role": "user", "content": "one two three " * 60}, {"role": "assistant", "content": "Yes."}]
    system = {"role": "system", "content": "Be brief."}
    question = {"role": "user", "content": "Well?"}
    answer = shallow_client.chat(model="any", messages=[system, *turn * 9, system, question], options=GREEDY)
    assert 200 < answer.prompt_eval_count < 512
    kept = shallow_client.chat(model="any", messages=[system, turn[0]], options=GREEDY).prompt_eval_count
    assert answer.prompt_eval_count > kept
    body = {"messages": [*turn * 9, question], "truncate": False}
    refused = httpx.post(f"{common_server.url}/api/chat", json=body)
    assert refused.status_code == 400
    assert "CONTEXT_LENGTH" in refused.json()["error"]
    assert "messages: " in refused.json()["error"]


@pytest.mark.parametrize("limit", [0, -1, -2])
def test_without_a_limit_an_answer_goes_on_to_its_end(client: ollama.Client, limit: int):
    options = {"num_predict": limit, "temperature": 0, "stop": [","]}
    answer = client.generate(model="any", prompt="a, b, c", raw=True, options=options)
    assert (answer.done_reason, answer.eval_count) != ("length", 0)
    assert answer.eval_count > 0


def test_what_there_is(client: ollama.Client, server: Server):
    (listed,) = client.list().models
    assert listed.model == "SmolLM2-135M-Instruct.Q4_1"
    assert listed.details.family == "llama"
    assert len(listed.digest) == 64
    assert client.ps().models[0].digest == listed.digest
    assert client.ps().models[0].expires_at.year == 9999  # it stays
    assert listed.details.quantization_level == "Q4_1"
    shown = client.show(listed.model)
    assert shown.modelinfo["llama.block_count"] == 30
    assert "completion" in shown.capabilities
    assert client.generate(model=listed.model).done_reason == "load"
    assert httpx.get(f"{server.url}/api/version").json()["version"]


def test_errors_are_texts(client: ollama.Client, server: Server):
    with pytest.raises(ollama.ResponseError, match="maximum context length") as error:
        client.chat(model="any", messages=[{"role": "user", "content": "a b " * 2000}])
    assert error.value.status_code == 400
    for path, body, status, said in (
        ("chat", {"messages": 5}, 400, "messages"),
        ("chat", {"messages": [{"role": "user", "images": ["aGk="]}]}, 400, "does not support images"),
        ("generate", {"prompt": "a", "options": {"temperature": "hot"}}, 400, "options.temperature"),
        ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, 400, "template"),
        ("embed", {"input": 5}, 400, "input"),
        ("pull", {"model": "llama3", "stream": False}, 400, "MODELS_DIR"),
        ("create", {"model": "llama3"}, 404, "/api/create"),
    ):
        answer = httpx.post(f"{server.url}/api/{path}", json=body)
        assert answer.status_code == status
        assert said in answer.json()["error"]
