"""The HTTP surface: curl, plain text, error objects, request ids, pages."""

import json
import subprocess
import time

import httpx
import pytest

from tests.processes import PATIENCE


def curl(server, *arguments: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "30", *arguments[1:], server.url + arguments[0]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_curl_with_the_simplest_completion(server):
    answer = json.loads(curl(server, "/v1/completions", "-d", '{"prompt": "Once upon a time", "max_tokens": 5}'))
    assert answer["usage"]["completion_tokens"] == 5


def test_curl_with_the_simplest_chat(server):
    body = '{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 250, "seed": 1}'
    answer = json.loads(curl(server, "/v1/chat/completions", "-d", body))
    assert answer["choices"][0]["message"]["content"]
    assert "Warning" not in server.log("console")


def test_v2_chats_stream_by_default(server):
    body = '{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}'
    lines = curl(server, "/v2/chat/completions", "-N", "-d", body).strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    whole = json.loads(curl(server, "/v2/chat/completions", "-d", body.replace("{", '{"stream": false, ', 1)))
    assert whole["object"] == "chat.completion"


@pytest.mark.parametrize("stream", [False, True])
def test_plain_text_is_the_bare_continuation(server, stream):
    body = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 6, "temperature": 0}
    whole = httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"][0]["text"]
    plain = httpx.post(
        f"{server.url}/v1/completions",
        json={**body, "stream": stream},
        headers={"Accept": "text/plain"},
        timeout=PATIENCE,
    )
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.text == whole


def test_streams_are_server_sent_events(server):
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"].startswith("req_")
        assert response.read().endswith(b"data: [DONE]\n\n")


IMAGE = '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}'
LONG_ID = b'{"prompt": "a", "logit_bias": {"%s": 1}}' % (b"1" * 5000)
BAD_REQUESTS = [
    ("POST", "/v1/completions", LONG_ID, 400, "token id", "logit_bias"),
    ("POST", "/v1/completions", b'{"prompt": "a", "repetition_penalty": 1e-300}', 400, "0.01", "repetition_penalty"),
    ("POST", "/v1/completions", b'{"prompt": "a", "stream_options": {"include_usage": "yes"}}', 400, "boolean", None),
    ("POST", "/v1/completions", b'{"prompt": [%s]}' % b",".join([b'"a"'] * 300), 400, "300 prompts", "prompt"),
    ("POST", "/v1/completions", "{", 400, "not JSON", None),
    ("POST", "/v1/completions", "[]", 400, "", None),
    ("POST", "/v1/completions", "{}", 400, "", "prompt"),
    ("POST", "/v1/completions", '{"prompt": []}', 400, "at least one", "prompt"),
    ("POST", "/v1/completions", '{"prompt": {"a": 1}}', 400, "", None),
    ("POST", "/v1/completions", '{"prompt": "a", "max_tokens": "ten"}', 400, "", "max_tokens"),
    ("POST", "/v1/completions", '{"prompt": "a", "temperature": 3}', 400, "", "temperature"),
    ("POST", "/v1/completions", '{"prompt": "a", "temperature": NaN}', 400, "", None),
    ("POST", "/v1/completions", '{"prompt": "a", "logit_bias": {"x": 1}}', 400, "token id", "logit_bias"),
    ("POST", "/v1/completions", json.dumps({"prompt": "a", "stop": ["x"] * 17}), 400, "", None),
    ("POST", "/v1/chat/completions", '{"messages": []}', 400, "", "messages"),
    ("POST", "/v1/chat/completions", '{"messages": [{"role": "king", "content": "a"}]}', 400, "", "messages.0.role"),
    ("POST", "/v1/chat/completions", IMAGE, 400, "data URL", "messages.0"),
    ("GET", "/v1/nothing", None, 404, "Unknown path", None),
    ("GET", "/v1/completions", None, 405, "does not support GET", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "words", "param"), BAD_REQUESTS)
def test_bad_requests_get_openai_error_objects(server, method, path, body, status, words, param):
    response = httpx.request(method, server.url + path, content=body)
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    if param:
        assert error["param"] == param


def test_unknown_fields_are_ignored(server):
    body = {"prompt": "Hi", "max_tokens": 1, "some_new_field": {"a": 1}, "user": "ann"}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200


def test_a_body_that_is_too_large_is_refused(server):
    response = httpx.post(f"{server.url}/v1/completions", content=b" " * (33 << 20))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_plain_text_is_for_one_prompt(server):
    response = httpx.post(f"{server.url}/v1/completions", json={"prompt": ["a", "b"]}, headers={"Accept": "text/plain"})
    assert response.status_code == 400


def test_request_ids_stand_in_the_log_and_prompts_do_not(server):
    response = httpx.post(
        f"{server.url}/v1/completions",
        json={"prompt": "My secret is swordfish", "max_tokens": 3, "ignore_eos": True},
        headers={"x-request-id": "my-own-id"},
    )
    assert response.headers["x-request-id"] == "my-own-id"
    deadline = time.monotonic() + PATIENCE
    while "my-own-id" not in server.log():  # the line is written after the answer
        assert time.monotonic() < deadline
    line = next(line for line in server.log().splitlines() if "my-own-id" in line)
    assert "POST /v1/completions 200" in line
    assert "3 out" in line
    assert "tokens/s" in line
    assert "swordfish" not in server.log() + server.log("model.log")


def test_a_request_id_cannot_forge_log_lines(server):
    response = httpx.get(f"{server.url}/health", headers={"x-request-id": "a b"})
    assert response.headers["x-request-id"].startswith("req_")
    httpx.get(f"{server.url}/a%0Aforged")
    assert "\nforged" not in server.log()


def test_health_and_pages(server):
    health = httpx.get(f"{server.url}/health").json()
    assert health["status"] == "ok"
    assert health["engine"] == "ctransformers"
    assert httpx.get(f"{server.url}/docs").status_code == 200
    assert "/v2/chat/completions" in httpx.get(f"{server.url}/openapi.json").json()["paths"]
