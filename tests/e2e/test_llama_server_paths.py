"""Requests of programs written for llama-server and vLLM, on both engines and a legacy family."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import FAMILY_FILES, Server, serve

PROMPT = "The three primary colours are"
GREEDY = {"temperature": 0, "n_predict": 8}
CHAT = [{"role": "user", "content": "Say hello."}]


LEGACY_TOO = ["ctransformers", "llama.cpp", "legacy"]


@pytest.fixture(scope="module", params=LEGACY_TOO)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"PARALLEL": "2", "CONTEXT_LENGTH": "256"}
    if request.param == "legacy":
        settings |= {"MODEL_PATH": str(FAMILY_FILES / "llama.f32.bin")}
    elif request.param == "llama.cpp":
        settings |= {"MODEL_PATH": str(request.getfixturevalue("shallow_original_path")), "ENGINE": "llama.cpp"}
    else:
        settings |= {"MODEL_PATH": str(request.getfixturevalue("shallow_path")), "ENGINE": "ctransformers"}
    with serve(tmp_path_factory.mktemp("logs"), **settings) as running:
        yield running


def get(server: Server, path: str) -> Any:
    answer = httpx.get(f"{server.url}{path}", timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(server: Server, path: str, status: int = 200, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def events(server: Server, path: str, **body: Any) -> list[Any]:
    with httpx.stream("POST", f"{server.url}{path}", json={**body, "stream": True}, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def refused(server: Server, path: str, field: str, **body: Any) -> None:
    error = post(server, path, 400, **body)["error"]
    assert error["param"] == field or field in error["message"], error


def test_completion_is_llama_servers(server: Server) -> None:
    whole = post(server, "/completion", prompt=PROMPT, return_tokens=True, **GREEDY)
    assert whole["stop"] is True
    assert (whole["stop_type"], whole["tokens_predicted"]) == ("limit", 8)
    assert len(whole["tokens"]) == 8
    assert post(server, "/detokenize", tokens=whole["tokens"])["content"] == whole["content"]
    assert whole["timings"]["predicted_n"] == 8
    assert whole["timings"]["prompt_n"] + whole["timings"]["cache_n"] == whole["tokens_evaluated"]
    assert whole["generation_settings"]["samplers"][-1] == "temperature"
    assert whole["prompt"] == PROMPT
    ids = post(server, "/tokenize", content=PROMPT, add_special=True)["tokens"]
    for prompt in (ids, [PROMPT], [ids[0], *ids[1:]]):
        again = post(server, "/completion", prompt=prompt, id_slot=0, **GREEDY)
        again = again[0] if isinstance(again, list) else again
        assert again["content"] == whole["content"]
        assert again["tokens"] == []
    parts = events(server, "/completion", prompt=PROMPT, **GREEDY)
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert [part["stop"] for part in parts] == [False] * (len(parts) - 1) + [True]


def test_completion_stops_at_a_word_and_answers_several_prompts(server: Server) -> None:
    whole = post(server, "/completion", prompt=PROMPT, **GREEDY)["content"]
    word = whole[3:6]
    stopped = post(server, "/completion", prompt=PROMPT, stop=[word], **GREEDY)
    assert (stopped["stop_type"], stopped["stopping_word"], stopped["content"]) == (
        "word",
        word,
        whole[: whole.index(word)],
    )
    several = post(server, "/completion", prompt=[PROMPT, "x"], n_cmpl=2, **GREEDY)
    assert [each["index"] for each in several] == [0, 1, 2, 3]
    assert several[0]["content"] == several[1]["content"] == whole
    fields = post(
        server, "/completion", prompt=PROMPT, response_fields=["content", "timings/prompt_n", "x/y"], **GREEDY
    )
    assert sorted(fields) == ["content", "prompt_n"]


def test_completion_tells_probabilities(server: Server) -> None:
    body = {"prompt": PROMPT, "n_predict": 3, "temperature": 0.7, "seed": 1, "top_k": 5, "n_probs": 30}
    before = post(server, "/completion", **body)["completion_probabilities"]
    assert [len(entry["top_logprobs"]) for entry in before] == [30] * 3
    assert sorted(before[0]) == ["bytes", "id", "logprob", "token", "top_logprobs"]
    after = post(server, "/completion", post_sampling_probs=True, **body)["completion_probabilities"]
    assert [entry["id"] for entry in after] == [entry["id"] for entry in before]
    for entry in after:
        assert 1 <= len(entry["top_probs"]) <= 5
        assert sum(other["prob"] for other in entry["top_probs"]) == pytest.approx(1, abs=1e-3)
    first = {entry["id"]: entry["logprob"] / 0.7 for entry in before[0]["top_logprobs"]}
    ids = [entry["id"] for entry in after[0]["top_probs"]]
    ratio = math.exp(first[ids[0]] - first[ids[-1]])
    assert after[0]["top_probs"][0]["prob"] / after[0]["top_probs"][-1]["prob"] == pytest.approx(ratio, rel=0.01)
    vocabulary = get(server, "/v1/models")["data"][0]["meta"]["n_vocab"]
    body |= {"n_predict": 1, "n_probs": vocabulary + 1000, "temperature": 3.5}
    assert len(post(server, "/completion", **body)["completion_probabilities"][0]["top_logprobs"]) == vocabulary


def test_no_tokens_with_probabilities_are_one(server: Server) -> None:
    """llama-server generates a token then, whose probabilities clients read."""
    body = {"prompt": PROMPT, "temperature": 0, "n_probs": 5}
    one, none = (post(server, "/completion", **body, n_predict=count) for count in (1, 0))
    assert none["completion_probabilities"] == one["completion_probabilities"]
    assert len(none["completion_probabilities"]) == 1
    assert post(server, "/completion", prompt=PROMPT, n_predict=0)["content"] == ""


def test_openai_s_answers_have_ids_timings_and_a_fingerprint(server: Server) -> None:
    body = {"temperature": 0, "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    chat = post(server, "/v1/chat/completions", messages=CHAT, **body)
    content = chat["choices"][0]["logprobs"]["content"]
    ids = chat["choices"][0]["token_ids"]
    assert [entry["id"] for entry in content] == ids[: len(content)]
    assert len(chat["prompt_token_ids"]) == chat["usage"]["prompt_tokens"]
    assert chat["timings"]["predicted_n"] == chat["usage"]["completion_tokens"]
    assert chat["system_fingerprint"].startswith("ggserve-")
    parts = events(server, "/v1/chat/completions", messages=CHAT, **body, stream_options={"include_usage": True})
    assert "timings" in parts[-1]
    assert "usage" in parts[-1]
    assert parts[0]["prompt_token_ids"] == chat["prompt_token_ids"]
    assert [token for part in parts for choice in part["choices"] for token in choice.get("token_ids", [])] == ids
    body |= {"logprobs": 2, "return_tokens_as_token_ids": True}
    del body["top_logprobs"]
    whole = post(server, "/v1/completions", prompt=PROMPT, **body)["choices"][0]
    assert whole["logprobs"]["tokens"] == [f"token_id:{token}" for token in whole["token_ids"]]
    assert [entry["id"] for entry in whole["logprobs"]["content"]] == whole["token_ids"]
    parts = events(server, "/v1/completions", prompt=PROMPT, max_tokens=2)
    assert ["timings" in part for part in parts] == [False] * (len(parts) - 1) + [True]
    parts = events(server, "/v1/completions", prompt=PROMPT, max_tokens=2, timings_per_token=True)
    assert all("timings" in part for part in parts)


def test_prompt_logprobs_are_vllms(server: Server) -> None:
    whole = post(server, "/v1/completions", prompt=PROMPT, max_tokens=1, prompt_logprobs=2, return_token_ids=True)
    choice = whole["choices"][0]
    ids, entries = choice["prompt_token_ids"], choice["prompt_logprobs"]
    assert entries[0] is None
    assert len(entries) == len(ids)
    for token, entry in zip(ids[1:], entries[1:], strict=True):
        assert 2 <= len(entry) <= 3
        assert sorted(entry[str(token)]) == ["decoded_token", "logprob", "rank"]
    refused(server, "/v1/completions", "prompt_logprobs", prompt=PROMPT, prompt_logprobs=1, stream=True)


def test_the_other_paths_of_llama_server_and_vllm(server: Server) -> None:
    assert get(server, "/v1/health")["status"] == "ok"
    assert [each["id"] for each in get(server, "/models")["data"]] == [get(server, "/v1/models")["data"][0]["id"]]
    model = get(server, "/v1/models")["data"][0]
    assert model["max_model_len"] == 256
    assert {"n_vocab", "n_ctx_train", "n_params", "size", "ftype"} <= set(model["meta"])
    assert model["meta"]["size"] > 0 < model["meta"]["n_params"]
    assert sorted(get(server, "/version")) == ["version"]
    assert get(server, "/lora-adapters") == []
    body = {"temperature": 0, "max_tokens": 2}
    chat, wide = (post(server, path, messages=CHAT, **body) for path in ("/v1/chat/completions", "/chat/completions"))
    assert chat["choices"][0]["message"] == wide["choices"][0]["message"]
    text, wide = (post(server, path, prompt=PROMPT, **body) for path in ("/v1/completions", "/completions"))
    assert text["choices"][0]["text"] == wide["choices"][0]["text"]
    counted = post(server, "/v1/chat/completions/input_tokens", messages=CHAT)
    assert counted["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_tokenize_is_also_vllms(server: Server) -> None:
    plain = post(server, "/tokenize", content=PROMPT)["tokens"]
    added = post(server, "/tokenize", content=PROMPT, add_special=True)["tokens"]
    theirs = post(server, "/tokenize", prompt=PROMPT, return_token_strs=True)
    assert theirs["tokens"] == added
    assert (theirs["count"], theirs["max_model_len"]) == (len(added), 256)
    assert "".join(theirs["token_strs"][-len(plain) :]).strip() == PROMPT
    assert post(server, "/tokenize", prompt=PROMPT, add_special_tokens=False)["tokens"] == plain
    chat = post(server, "/tokenize", messages=CHAT)
    assert chat["count"] == post(server, "/v1/chat/completions/input_tokens", messages=CHAT)["input_tokens"]
    refused(server, "/tokenize", "content")


def test_wider_limits_on_llama_server_s_paths(server: Server) -> None:
    stops = [f"{number}!" for number in range(40)]
    many = {"temperature": 5.0, "stop": stops}
    post(server, "/completion", prompt=PROMPT, n_predict=1, **many)
    post(server, "/completions", prompt=PROMPT, max_tokens=1, logprobs=25, **many)
    post(server, "/chat/completions", messages=CHAT, max_tokens=1, logprobs=True, top_logprobs=25, **many)
    for field, value in (("temperature", 5.0), ("stop", stops)):
        refused(server, "/v1/chat/completions", field, messages=CHAT, **{field: value})


def test_a_bias_may_be_a_list(server: Server) -> None:
    token = post(server, "/tokenize", content=" b")["tokens"][-1]
    for bias in ([[token, 100]], [[" b", 100.0]]):
        text = post(server, "/v1/completions", prompt=PROMPT, max_tokens=1, temperature=0, logit_bias=bias)
        assert text["choices"][0]["text"].strip() == post(server, "/detokenize", tokens=[token])["content"].strip()
    first = post(server, "/completion", prompt=PROMPT, n_predict=1, temperature=0, return_tokens=True)["tokens"]
    body = {"prompt": PROMPT, "n_predict": 1, "temperature": 0, "return_tokens": True}
    assert post(server, "/completion", logit_bias=[[first[0], False]], **body)["tokens"] != first
    assert post(server, "/completion", logit_bias=[], **body)["tokens"] == first


def test_a_prompt_that_is_too_long_is_counted(server: Server) -> None:
    for path in ("/v1/completions", "/completion"):
        error = post(server, path, 400, prompt="x " * 600)["error"]
        assert error["n_ctx"] == 256
        assert error["n_prompt_tokens"] > 256
        assert error["type"] == "exceed_context_size_error"
        assert error["code"] == "context_length_exceeded"


def test_props_and_metrics_have_llama_servers_names(server: Server) -> None:
    props = get(server, "/props")
    assert props["endpoint_slots"] is True
    assert {"bos_token", "eos_token", "chat_template_caps"} <= set(props)
    assert props["default_generation_settings"]["params"]["samplers"][-1] == "temperature"
    assert "messages" in props["chat_template"]
    post(server, "/completion", prompt=PROMPT, **GREEDY)
    metrics = httpx.get(f"{server.url}/metrics").text
    for name in ("prompt_tokens_total", "tokens_predicted_total", "predicted_tokens_seconds", "requests_processing"):
        assert f"\nllamacpp:{name} " in metrics, name
    assert float(metrics.partition("\nllamacpp:tokens_predicted_total ")[2].split()[0]) > 0


@pytest.mark.parametrize("server", LEGACY_TOO[:2], indirect=True)  # an answer of the tiny legacy model ends at once
def test_slots_tell_of_a_running_answer(server: Server) -> None:
    body = {"prompt": PROMPT, "n_predict": 200, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/completion", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        busy, idle = sorted(get(server, "/slots"), key=lambda slot: not slot["is_processing"])
        assert (busy["is_processing"], idle["is_processing"]) == (True, False)
        assert busy["n_prompt_tokens"] == busy["n_prompt_tokens_cache"] + busy["n_prompt_tokens_processed"] > 0
        assert busy["next_token"]["n_decoded"] > 0
        assert busy["next_token"]["n_decoded"] + busy["next_token"]["n_remain"] == 200
        assert busy["id_task"] > 0
        assert httpx.get(f"{server.url}/slots?fail_on_no_slot=1").status_code == 200


def test_structured_output_by_every_name(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answers = [{"a": True}, {"a": False}]
    for form in (
        {"response_format": {"type": "json_object", "schema": schema}},
        {"response_format": {"type": "json_schema", "schema": schema}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"json_schema": schema},
        {"guided_json": json.dumps(schema)},
        {"guided_json": schema, "structured_outputs": {"json": schema}},
    ):
        whole = post(server, "/v1/chat/completions", messages=CHAT, max_tokens=40, temperature=0, **form)
        assert json.loads(whole["choices"][0]["message"]["content"]) in answers, form
    assert (
        json.loads(post(server, "/completion", prompt=PROMPT, json_schema=schema, n_predict=40)["content"]) in answers
    )
    for form in (
        {"guided_grammar": 'root ::= "ab" | "cd"'},
        {"structured_outputs": {"grammar": 'root ::= "ab" | "cd"'}},
        {"ebnf": 'root ::= "ab" | "cd"'},
        {"regex": "ab|cd"},
        {"guided_grammar": 'start: "ab" | "cd"'},
    ):
        whole = post(server, "/v1/completions", prompt=PROMPT, max_tokens=10, **form)
        assert whole["choices"][0]["text"] in ("ab", "cd")
    refused(server, "/v1/completions", "regex", prompt=PROMPT, regex="a", guided_regex="b")
    refused(
        server,
        "/v1/chat/completions",
        "json_schema",
        messages=CHAT,
        response_format={"type": "json_object"},
        json_schema=schema,
    )


def test_max_completion_tokens_comes_first_and_a_seed_of_minus_one_is_random(server: Server) -> None:
    body = {"max_completion_tokens": 2, "max_tokens": 7, "ignore_eos": True}
    assert post(server, "/v1/chat/completions", messages=CHAT, **body)["usage"]["completion_tokens"] == 2
    body = {"prompt": "x", "max_tokens": 12, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "ignore_eos": True}
    texts = {post(server, "/v1/completions", seed=-1, **body)["choices"][0]["text"] for _ in range(3)}
    assert len(texts) > 1
    options = {"seed": -1, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "num_predict": 12}
    body = {"model": "x", "prompt": "x", "raw": True, "stream": False, "options": options}
    assert len({post(server, "/api/generate", **body)["response"] for _ in range(3)}) > 1


UNSUPPORTED = [
    ("/v1/chat/completions", "t_max_predict_ms", 5),
    ("/v1/chat/completions", "reasoning_format", "none"),
    ("/v1/chat/completions", "parse_tool_calls", False),
    ("/v1/chat/completions", "response_fields", ["content"]),
    ("/v1/chat/completions", "logprob_token_ids", [1]),
    ("/v1/chat/completions", "samplers", ["nonsense"]),
    ("/v1/completions", "response_format", {"type": "json_object"}),
    ("/v1/completions", "adaptive_target", 0.5),
    ("/completion", "lora", [{"id": 0, "scale": 1}]),
    ("/v1/responses", "context_management", [{"type": "compaction"}]),
    ("/v1/responses", "presence_penalty", 1),
    ("/v1/messages", "context_management", {"edits": [{"type": "clear_tool_uses_20250919"}]}),
    ("/api/chat", "options.num_ctx", 100_000),
    ("/api/chat", "options.tfs_z", 0.5),
    ("/api/generate", "options.num_ctx", 100_000),
]


@pytest.mark.parametrize(("path", "field", "value"), UNSUPPORTED, ids=lambda each: str(each)[:30])
def test_what_would_change_an_answer_is_done_or_refused(server: Server, path: str, field: str, value: Any) -> None:
    prompt: dict[str, Any] = {"messages": CHAT, "model": "x"} if "chat" in path or "messages" in path else {}
    prompt |= {"prompt": PROMPT} if "completion" in path or "generate" in path else {}
    prompt |= {"input": "Hello"} if "responses" in path else {}
    prompt |= {"max_tokens": 2} if "api/" not in path and "responses" not in path else {}
    name, _, inner = field.partition(".")
    given = {name: {inner: value}} if inner else {name: value}
    answer = httpx.post(f"{server.url}{path}", json={**prompt, **given}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert (inner or name) in answer.text


def test_a_request_brings_its_own_chat_template(server: Server) -> None:
    template = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}> "
    chat = {"messages": CHAT, "chat_template": template}
    assert post(server, "/apply-template", **chat)["prompt"] == "[user] " + CHAT[0]["content"] + "\n> "
    counted = post(server, "/v1/chat/completions/input_tokens", **chat)["input_tokens"]
    answered = post(server, "/v1/chat/completions", max_tokens=2, **chat)
    assert answered["usage"]["prompt_tokens"] == counted
    assert counted != post(server, "/v1/chat/completions/input_tokens", messages=CHAT)["input_tokens"]
    for source in ("{% if %}", "{{ ''.__class__.__mro__ }}", "{% for i in range(10**9) %}{{ 'x' * 1000 }}{% endfor %}"):
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", json={"messages": CHAT, "chat_template": source}, timeout=60
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "chat_template_error"), answer.text
    refused(server, "/v1/completions", "chat_template", prompt=PROMPT, chat_template=template)


def test_what_asks_for_nothing_is_harmless(server: Server) -> None:
    harmless = {
        "n_probs": 0,
        "lora": [],
        "mirostat": 0,
        "priority": 0,
        "top_n_sigma": -1,
        "repeat_last_n": 64,
        "t_max_predict_ms": 0,
    }
    for path, prompt in (("/v1/chat/completions", {"messages": CHAT}), ("/completion", {"prompt": PROMPT})):
        post(server, path, max_tokens=1, reasoning_format="auto", parse_tool_calls=True, **harmless, **prompt)
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    post(server, "/v1/messages", model="x", messages=CHAT, max_tokens=1, context_management=edits)
    post(server, "/api/chat", model="x", messages=CHAT, stream=False, options={"num_ctx": 256, "num_predict": 1})


def test_the_samplers_are_taken_by_every_dialect(server: Server) -> None:
    greedy = post(server, "/v1/responses", input="Hello", max_output_tokens=4, top_k=1, temperature=2.0)
    again = post(server, "/v1/responses", input="Hello", max_output_tokens=4, temperature=0)
    assert greedy["output"][0]["content"][0]["text"] == again["output"][0]["content"][0]["text"]
    stopped = post(server, "/v1/responses", input="Hello", stop=["e", "a", "o", " "], max_output_tokens=20)
    assert not {"e", "a", "o", " "} & set(stopped["output"][0]["content"][0]["text"])
    options = {"mirostat": 2, "mirostat_tau": 0.01, "typical_p": 0.9, "repeat_last_n": 8, "num_predict": 4}
    post(server, "/api/chat", model="x", messages=CHAT, stream=False, options=options)
    body = {
        "dry_multiplier": 0.8,
        "xtc_probability": 0.5,
        "dynatemp_range": 0.3,
        "samplers": "edskypmxt",
        "min_keep": 2,
    }
    post(server, "/v1/chat/completions", messages=CHAT, max_tokens=4, mirostat_mode=0, typ_p=0.9, **body)
    banned = post(server, "/v1/completions", prompt=PROMPT, max_tokens=10, temperature=0, banned_strings=["E"])
    assert "e" not in banned["choices"][0]["text"].lower()


def test_truncation_drops_turns_however_long_they_are(server: Server) -> None:
    long = {"role": "user", "content": "a very long text " * 20_000}
    said = {"role": "assistant", "content": "Yes."}
    turns = [long, said, {"role": "user", "content": "Hi"}]
    whole = post(server, "/v1/responses", input=turns, truncation="auto", max_output_tokens=2)
    short = post(server, "/v1/responses", input=turns[2:], max_output_tokens=2)
    assert whole["usage"]["input_tokens"] == short["usage"]["input_tokens"]
    assert post(server, "/v1/responses", 400, input=turns)["error"]["code"] == "context_length_exceeded"
