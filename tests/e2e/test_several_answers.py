"""Several choices, log-probabilities and echo, by the `openai` client against the real server."""

import gzip
import json

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Write one sentence about the sea."}]
GREEDY = {"model": "any-name", "temperature": 0, "max_tokens": 6}
DRAWN = {"model": "any-name", "temperature": 1.0, "max_tokens": 6, "seed": 3}
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_choices_of_a_chat_differ_and_a_seed_repeats_them(client):
    first, again = (client.chat.completions.create(messages=MESSAGES, n=3, **DRAWN) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]
    assert first.usage.completion_tokens == 18
    alone = client.chat.completions.create(messages=MESSAGES, **DRAWN)
    assert first.usage.prompt_tokens == alone.usage.prompt_tokens


def test_choices_streamed_are_the_whole_ones(client):
    whole = client.chat.completions.create(messages=MESSAGES, n=2, **DRAWN)
    texts, reasons, roles = ["", ""], {}, []
    for chunk in client.chat.completions.create(messages=MESSAGES, n=2, stream=True, **DRAWN):
        (choice,) = chunk.choices
        roles += [choice.index] if choice.delta.role else []
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == {0: "length", 1: "length"}
    assert sorted(roles) == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_are_of_the_text(client, stream):
    answer = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=3, stream=stream, **GREEDY)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
        content = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    else:
        text, content = answer.choices[0].message.content, answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == text
    assert "".join(token.token for token in content) == text
    for token in content:
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_completions_logprobs_in_their_own_shape(client):
    answer = client.completions.create(prompt=PROMPT, logprobs=2, **GREEDY).choices[0]
    scores = answer.logprobs
    assert "".join(scores.tokens) == answer.text
    assert scores.text_offset == [len("".join(scores.tokens[:i])) for i in range(6)]
    for token, logprob, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())


def test_echo_alone_is_the_prompt_before_the_text(client, model):
    plain = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    assert client.completions.create(prompt=PROMPT, echo=True, **GREEDY).choices[0].text == PROMPT + plain
    of_ids = client.completions.create(prompt=model.tokenize(PROMPT), echo=True, **GREEDY)
    assert of_ids.choices[0].text == PROMPT + plain
    streamed = client.completions.create(prompt=PROMPT, echo=True, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in streamed) == PROMPT + plain


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_what_lm_eval_asks_for(client, model, max_tokens):
    ids = model.tokenize(PROMPT)
    prompt = [ids, ids[:3]]
    answer = client.completions.create(
        model="x", prompt=prompt, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0, seed=1234
    )
    for choice, asked in zip(answer.choices, prompt, strict=True):
        scores = choice.logprobs
        assert len(scores.tokens) == len(asked) + max_tokens
        assert (scores.token_logprobs[0], scores.top_logprobs[0]) == (None, None)
        assert all(value <= 0 for value in scores.token_logprobs[1:])
        for token, top in zip(scores.tokens[1:], scores.top_logprobs[1:], strict=True):
            assert top[token] <= max(top.values())
        assert "".join(scores.tokens) == choice.text
        assert scores.text_offset[0] == 0
        assert choice.finish_reason == "length"


def test_echoed_scores_are_streamed_with_the_first_piece(client):
    whole = client.completions.create(prompt=PROMPT, echo=True, logprobs=1, n=2, **GREEDY)
    scores = [[], []]
    for chunk in client.completions.create(prompt=PROMPT, echo=True, logprobs=1, n=2, stream=True, **GREEDY):
        scores[chunk.choices[0].index] += zip(
            chunk.choices[0].logprobs.tokens, chunk.choices[0].logprobs.text_offset, strict=True
        )
    for choice, streamed in zip(whole.choices, scores, strict=True):
        assert list(zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)) == streamed


def test_the_best_of_several_is_the_likeliest(client):
    all_of = client.completions.create(prompt=PROMPT, n=4, logprobs=0, **DRAWN)
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in all_of.choices}
    best = client.completions.create(prompt=PROMPT, best_of=4, n=2, **DRAWN)
    assert [choice.index for choice in best.choices] == [0, 1]
    assert [choice.text for choice in best.choices] == sorted(means, key=means.get, reverse=True)[:2]
    assert all(choice.logprobs is None for choice in best.choices)
    assert best.usage.completion_tokens == 24


def test_choices_of_several_prompts_come_in_order(client):
    prompts = [PROMPT, "def fibonacci(n):"]
    answer = client.completions.create(prompt=prompts, n=2, echo=True, **DRAWN)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(prompts[i // 2]) for i, choice in enumerate(answer.choices)] == [True] * 4


def test_habits_of_clients_change_nothing(client):
    plain = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    habits = {
        "n": 1.0,
        "seed": 7.0,
        "store": False,
        "metadata": {"trace": "1"},
        "modalities": ["text"],
        "service_tier": "auto",
        "reasoning_effort": "low",
        "prediction": {"type": "content", "content": "The sea"},
        "parallel_tool_calls": True,
        "logprobs": False,
        "top_logprobs": 0,
        "user": "ann",
        "safety_identifier": "ann",
        "prompt_cache_key": "k",
        "verbosity": "low",
        "stream_options": None,
        "something_new": 1,
    }
    answer = client.chat.completions.create(messages=MESSAGES, extra_body=habits, **GREEDY)
    assert answer.choices[0].message.content == plain.choices[0].message.content


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}
OTHER = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}

COMMON = [
    ("max_tokens", [-2, 1.5, "5", True]),
    ("temperature", [-0.1, 2.1, "1", [1]]),
    ("top_p", [-0.1, 1.1, "1"]),
    ("top_k", [-2, 1.5]),
    ("min_p", [-1, 2]),
    ("n", [0, 17, 1.5, "2", True]),
    ("stop", [5, [1], ["x"] * 17]),
    ("seed", ["1", 1.5]),
    ("presence_penalty", [3, "1"]),
    ("frequency_penalty", [-3, "1"]),
    ("repetition_penalty", [0, 11]),
    ("logit_bias", [5, {"x": 1}, {"5": 101}, {"5": "1"}]),
    ("ignore_eos", ["yes", 1]),
    ("cache_prompt", ["no", 0]),
    ("stream", ["true", 1]),
    ("stream_options", [5, {"include_usage": "yes"}]),
    ("user", [5]),
    ("metadata", ["x"]),
    ("service_tier", [5]),
    ("modalities", [["audio"], "text"]),
    ("audio", [{"voice": "x"}]),
    ("use_beam_search", [True]),
    ("repeat_penalty", [0, "x"]),
    ("n_predict", [-2, "5"]),
    ("continue_final_message", [True]),
]
CHAT = [
    ("messages", [None, [], "hi", {}]),
    ("logprobs", [5, "true"]),
    ("top_logprobs", [21, -1, 5, "1"]),
    ("max_completion_tokens", [-2, "5"]),
    ("best_of", [2]),
    ("echo", [True]),
    ("suffix", ["x"]),
    ("tools", [5, [5], [{"type": "function"}]]),
    ("tool_choice", [5, "always", "required", {"type": "custom", "custom": {"name": "f"}}]),
    ("functions", [5, [{"description": "no name"}]]),
    ("function_call", [5, "required", {"name": "f"}]),
    ("response_format", [5, {"type": "xml"}]),
    ("reasoning_effort", ["much", 3]),
    ("chat_template_kwargs", [5, {"enable_thinking": "yes"}, {"messages": []}, {"tools": 1}]),
]
COMPLETIONS = [
    ("prompt", [None, [], 5, [[-1]], {"a": 1}]),
    ("logprobs", [21, -1, "1", True]),
    ("best_of", [0, 17, "2"]),
    ("echo", ["yes", 1]),
    ("tools", [[{"type": "function", "function": {"name": "f"}}]]),
    ("top_logprobs", [3]),
]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (path, field, value)
        for path, table in (("chat/completions", COMMON + CHAT), ("completions", COMMON + COMPLETIONS))
        for field, values in table
        for value in values
    ],
)
def test_a_field_that_makes_no_sense_is_a_400_that_names_it(server, path, field, value):
    body = {"messages": MESSAGES} if path == "chat/completions" else {"prompt": "Hi"}
    answer = httpx.post(f"{server.url}/v1/{path}", json={**body, field: value})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["type"] == "invalid_request_error"
    assert error["param"].split(".")[0] == field, error
    assert field in error["message"]
    assert "pydantic" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ("completions", {"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        ("chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"messages": MESSAGES, "top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ("chat/completions", {"messages": MESSAGES, "tools": [TOOL], "functions": [TOOL["function"]]}, "functions"),
        (
            "chat/completions",
            {"messages": MESSAGES, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        (
            "chat/completions",
            {"messages": MESSAGES, "tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice",
        ),
        ("completions", {"prompt": "a", "guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ("completions", {"prompt": "a", "logit_bias": {"999999": 1}}, "logit_bias"),
        ("completions", {"prompt": [999999]}, "prompt"),
        ("completions", {"prompt": "a " * 600}, "prompt"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a " * 600}]}, "messages"),
        ("responses", {"input": "a " * 600}, "input"),
        ("embeddings", {"input": "a " * 600}, "input"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": [[]]}, "input"),
        ("embeddings", {"input": "a", "dimensions": 5}, "dimensions"),
        ("embeddings", {"input": 5}, "input"),
        ("embeddings", {"input": [1.5]}, "input"),
    ],
)
def test_combinations_and_unions_name_the_field_and_no_type(server, path, body, param):
    answer = httpx.post(f"{server.url}/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].split(".")[0] == param
    assert "str" not in answer.json()["error"]["param"]
    assert "Input should be" not in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"5"])
def test_a_body_that_is_no_object_is_a_400_that_says_so(server, body):
    error = httpx.post(f"{server.url}/v1/chat/completions", content=body).json()["error"]
    assert (error["param"], error["code"]) == (None, "invalid_json")
    assert "body" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_functions_of_the_old_form_are_called_in_the_old_form(client, stream):
    asked = {
        "messages": [{"role": "user", "content": "The weather in Rome?"}],
        "functions": [TOOL["function"], OTHER["function"]],
        "function_call": {"name": "weather"},
    }
    answer = client.chat.completions.create(**asked, model="x", temperature=0, max_tokens=40, stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        calls = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call]
        name, arguments = calls[0].name, "".join(call.arguments or "" for call in calls)
        reason = chunks[-1].finish_reason
        assert not any(chunk.delta.tool_calls for chunk in chunks)
    else:
        call, reason = answer.choices[0].message.function_call, answer.choices[0].finish_reason
        name, arguments = call.name, call.arguments
        assert answer.choices[0].message.tool_calls is None
    assert (name, reason) == ("weather", "function_call")
    assert json.loads(arguments)["city"] in ("Oslo", "Rome")


def test_a_history_of_the_old_form_is_taken(client):
    messages = [
        {"role": "user", "content": "The weather in Rome?"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"role": "function", "name": "weather", "content": "20 degrees"},
    ]
    answer = client.chat.completions.create(messages=messages, functions=[TOOL["function"]], **GREEDY)
    assert answer.choices[0].finish_reason in ("length", "stop", "function_call")


def test_only_allowed_tools_are_called(client):
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "search"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = client.chat.completions.create(
        messages=MESSAGES, tools=[TOOL, OTHER], tool_choice=choice, model="x", temperature=0, max_tokens=40
    )
    assert {call.function.name for call in answer.choices[0].message.tool_calls} == {"search"}


def test_a_refusal_in_the_history_is_text(client):
    def tokens(part):
        history = [*MESSAGES, {"role": "assistant", "content": [part]}, {"role": "user", "content": "Why?"}]
        return client.chat.completions.create(messages=history, **GREEDY).usage.prompt_tokens

    assert tokens({"type": "refusal", "refusal": "I cannot."}) == tokens({"type": "text", "text": "I cannot."})


def test_dimensions_may_say_the_true_size(client):
    size = len(client.embeddings.create(model="x", input="a").data[0].embedding)
    floats = client.embeddings.create(model="x", input="a", dimensions=size, encoding_format="float")
    assert len(floats.data[0].embedding) == size


@pytest.mark.parametrize(
    ("content", "headers", "named"),
    [
        (gzip.compress(b'{"prompt": "a"}', mtime=0), {"Content-Encoding": "gzip"}, "gzip"),
        (b"\x8b\x02\x80", {"Content-Encoding": "br"}, "br"),
        ('{"prompt": "Grüße"}'.encode("latin-1"), {}, "UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), {}, "UTF-8"),
    ],
)
def test_an_encoding_that_is_not_read_is_a_415_that_names_it(server, content, headers, named):
    answer = httpx.post(f"{server.url}/v1/completions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/tokenizer_info"])
def test_head_is_get_without_the_body(server, path):
    head, get = httpx.head(server.url + path), httpx.get(server.url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_a_slash_too_many_is_told(server):
    answer = httpx.get(f"{server.url}/v1/models/")
    assert answer.status_code == 404
    assert "Did you mean /v1/models?" in answer.json()["error"]["message"]


def test_tokens_as_vllm_has_them(server, model):
    facts = httpx.get(f"{server.url}/tokenizer_info").json()
    assert (facts["bos_token"], facts["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in facts["chat_template"]
    asked = {"prompt": "Grüße<|im_end|>", "add_special_tokens": False}
    ids = httpx.post(f"{server.url}/tokenize", json=asked).json()["tokens"]
    assert ids == model.tokenize(asked["prompt"], add_special=False)
    assert httpx.post(f"{server.url}/detokenize", json={"tokens": ids}).json()["prompt"] == asked["prompt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_regex", "(a"),
        ("guided_grammar", "start: <[5]>"),
        ("guided_json", {"type": "wat"}),
        ("structured_outputs", {"regex": "(a"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}),
    ],
)
def test_what_no_answer_can_be_held_to_is_named(server, field, value):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": MESSAGES, field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
