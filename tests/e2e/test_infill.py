"""Fill in the middle over HTTP, with a model whose vocabulary has the tokens, on both engines and in a child."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.conftest import FAMILY_FILES, Server, serve
from tests.llama_server import launcher

PREFIX, SUFFIX = "def f(", "):"
GREEDY = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp", "llama-server"])
def coder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"MODEL_PATH": str(FAMILY_FILES / "starcoder.f32.bin"), "ENGINE": request.param, "PARALLEL": "2"}
    if request.param == "llama-server":
        folder = tmp_path_factory.mktemp("llama-server")
        settings |= {"ENGINE": "llama.cpp", "LLAMA_SERVER": str(launcher(folder))}
    cache = str(tmp_path_factory.mktemp("cache"))
    with serve(tmp_path_factory.mktemp("logs"), CACHE_DIR=cache, **settings) as server:
        yield server


def post(server: Server, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(server: Server, text: str, *, control: bool = False) -> list[int]:
    return post(server, "/tokenize", content=text, parse_special=control)["tokens"]


def gap(server: Server, prefix: str, suffix: str) -> list[int]:
    """The prompt, token by token."""
    before, after, middle = (ids(server, f"<fim_{name}>", control=True) for name in ("prefix", "suffix", "middle"))
    return [*before, *ids(server, prefix), *after, *ids(server, suffix), *middle]


def test_a_suffix_makes_the_prompt_that_models_are_trained_on(coder: Server) -> None:
    client = openai.OpenAI(base_url=f"{coder.url}/v1", api_key="none", max_retries=0)
    expected = client.completions.create(model="x", prompt=gap(coder, PREFIX, SUFFIX), **GREEDY)
    filled = client.completions.create(model="x", prompt=PREFIX, suffix=SUFFIX, **GREEDY)
    assert filled.choices[0].text == expected.choices[0].text
    assert filled.usage.prompt_tokens == expected.usage.prompt_tokens
    by_ids = client.completions.create(model="x", prompt=ids(coder, PREFIX), suffix=SUFFIX, **GREEDY)
    assert by_ids.choices[0].text == expected.choices[0].text
    pieces = client.completions.create(model="x", prompt=PREFIX, suffix=SUFFIX, stream=True, **GREEDY)
    assert "".join(piece.choices[0].text for piece in pieces) == expected.choices[0].text


def test_infill_is_llama_servers(coder: Server) -> None:
    expected = post(coder, "/v1/completions", prompt=PREFIX, suffix=SUFFIX, **GREEDY)
    body = {"input_prefix": PREFIX[:4], "prompt": PREFIX[4:], "input_suffix": SUFFIX, "n_predict": 6, "temperature": 0}
    whole = post(coder, "/infill", **body)
    assert whole["content"] == expected["choices"][0]["text"]
    assert whole["tokens_predicted"] == expected["usage"]["completion_tokens"]
    assert whole["tokens_evaluated"] == expected["usage"]["prompt_tokens"]
    assert whole["stop"] and whole["stop_type"] in ("limit", "eos")
    with httpx.stream("POST", f"{coder.url}/infill", json={**body, "stream": True}, timeout=60) as answer:
        pieces = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert [piece["stop"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_line_that_is_indented_less_ends_the_middle(coder: Server) -> None:
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "grammar": r'root ::= "a\n  b\nc"', "n_predict": 20}
    assert post(coder, "/infill", **body)["content"] == "a\n  b\nc"
    ended = post(coder, "/infill", **body, n_indent=2)
    assert (ended["content"], ended["stop_type"]) == ("a\n  b\n", "limit")


def test_other_files_come_first_and_never_overflow(coder: Server) -> None:
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 2, "temperature": 0}
    alone = post(coder, "/infill", **body)
    some = post(coder, "/infill", **body, input_extra=[{"filename": "a.py", "text": "x = 1"}])
    many = post(coder, "/infill", **body, input_extra=[{"text": "x = 1\n" * 1000}])
    assert alone["tokens_evaluated"] < some["tokens_evaluated"] <= many["tokens_evaluated"]
    assert many["tokens_evaluated"] + 2 < many["generation_settings"]["n_ctx"]


def test_ollamas_suffix(coder: Server) -> None:
    expected = post(coder, "/v1/completions", prompt=PREFIX, suffix=SUFFIX, **GREEDY)
    options = {"temperature": 0, "num_predict": 6}
    answer = ollama.Client(host=coder.url).generate(model="x", prompt=PREFIX, suffix=SUFFIX, options=options)
    assert answer.response == expected["choices"][0]["text"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_suffix"),
    ],
)
def test_a_model_without_the_tokens_says_which(server: Server, path: str, body: dict[str, str], field: str) -> None:
    answer = httpx.post(f"{server.url}{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    assert "no fill-in-the-middle token for the prefix, the suffix, the middle" in error["message"]


def test_fields_that_make_no_sense_are_named(coder: Server) -> None:
    for path, body, field in (
        ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": -3}, "n_predict"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "c"}]}, "input_extra"),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "echo": True}, "suffix"),
        ("/v1/completions", {"prompt": "a", "suffix": 5}, "suffix"),
    ):
        answer = httpx.post(f"{coder.url}{path}", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith(field)
