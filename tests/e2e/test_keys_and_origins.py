"""API keys, host names, pages of other sites and TLS, on the real server."""

import httpx
import pytest

from tests.conftest import serve
from tests.processes import PATIENCE

QUESTION = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
FRIEND = "https://friend.example"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, default_path):
    environment = {"API_KEY": "first, second", "CORS_ORIGINS": f"{FRIEND}/", "CONTEXT_LENGTH": "256"}
    with serve(tmp_path_factory.mktemp("logs"), **environment) as server:
        yield server


def test_the_api_needs_a_key_and_the_status_tells_nothing_else_without(guarded):
    chat, key = f"{guarded.url}/v1/chat/completions", {"Authorization": "Bearer second"}
    assert httpx.post(chat, json=QUESTION).json()["error"]["code"] == "invalid_api_key"
    assert httpx.post(chat, json=QUESTION, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.post(chat, json=QUESTION, headers=key).status_code == 200
    assert httpx.post(f"{guarded.url}/v1/messages", json=QUESTION).json()["type"] == "error"
    assert httpx.get(f"{guarded.url}/health").json() == {"status": "ok"}
    assert "model" in httpx.get(f"{guarded.url}/health", headers=key).json()
    for path, status in (("/", 200), ("/docs", 200), ("/metrics", 401), ("/v1/models", 401)):
        assert httpx.get(guarded.url + path).status_code == status
    assert "second" not in guarded.log() + guarded.log("console")


@pytest.mark.parametrize("stream", [True, False])
def test_a_named_site_reads_whole_and_streamed_answers_and_errors(guarded, stream):
    headers = {"Origin": FRIEND, "Authorization": "Bearer first"}
    for body, status in ((QUESTION, 200), ({}, 400)):
        answer = httpx.post(
            f"{guarded.url}/v1/chat/completions", json={**body, "stream": stream}, headers=headers, timeout=PATIENCE
        )
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == FRIEND
    refused = httpx.post(f"{guarded.url}/v1/chat/completions", json=QUESTION, headers={"Origin": FRIEND})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, FRIEND)


def test_a_preflight_needs_no_key(guarded):
    headers = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = httpx.options(f"{guarded.url}/v1/chat/completions", headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, FRIEND)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        {"Sec-Fetch-Site": "cross-site"},
        {
            "Host": "evil.example",
            "Origin": "http://evil.example",
            "Sec-Fetch-Site": "same-origin",
            "Content-Type": "application/json",
        },
    ],
)
def test_pages_of_other_sites_cannot_use_the_server(server, headers):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=QUESTION, headers=headers)
    assert answer.status_code == 403
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_servers_own_page_and_clients_that_are_no_browsers_can(server):
    origin = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    for headers in (origin, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=QUESTION, headers=headers)
        assert answer.status_code == 200


def test_a_wide_open_server_is_warned_about(tmp_path, default_path):
    with serve(tmp_path, "--host", "0.0.0.0", CORS_ORIGINS="*") as server:
        assert httpx.get(f"{server.url}/health", headers={"Host": "evil.example"}).status_code == 403
        assert server.log("console").count("set API_KEY") == 2
