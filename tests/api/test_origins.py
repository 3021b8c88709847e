"""The host names that the server answers to, and the pages that may use it."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ggserve.api.errors import install_error_handlers
from ggserve.api.origins import Origins, OriginsMiddleware
from tests.api.state import app_state

LOOPBACK, NETWORK = "127.0.0.1", "192.168.1.5"


def refusal(rules: Origins, server: str = LOOPBACK, method: str = "POST", **headers: str) -> str | None:
    """Return the code of the error, if any."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "server": (server, 8000),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    error = rules.refusal(scope)
    return error.code if error else None


@pytest.mark.parametrize(
    ("server", "host", "accepted"),
    [
        (LOOPBACK, "localhost:8000", True),
        (LOOPBACK, "LOCALHOST", True),
        (LOOPBACK, "localhost.:8000", True),
        (LOOPBACK, "127.0.0.1:9", True),
        (LOOPBACK, "[::1]:8000", True),
        ("::1", "[::1]", True),
        (LOOPBACK, "0.0.0.0:8000", True),
        (LOOPBACK, "evil.example", False),
        (LOOPBACK, "localhost.evil.example:8000", False),
        (LOOPBACK, "127.0.0.1.evil.example", False),
        (LOOPBACK, "box.local", True),
        (LOOPBACK, "host.docker.internal:8000", True),
        (LOOPBACK, "ggserve.models.svc:8000", True),
        (LOOPBACK, "192.168.1.5:8000", True),
        (LOOPBACK, "svc.evil.example", False),
        (LOOPBACK, "", False),
        (LOOPBACK, "localhost:8000:1", False),
        (LOOPBACK, "a@localhost", False),
        (NETWORK, "192.168.1.5:8000", True),
        (NETWORK, "[fe80::1]:8000", True),
        (NETWORK, "ggserve:8000", True),
        (NETWORK, "box.local", True),
        (NETWORK, "ggserve.default.svc.cluster.local:8000", True),
        (NETWORK, "localhost", True),
        (NETWORK, "evil.example:8000", False),
    ],
)
def test_names_of_the_server(server: str, host: str, accepted: bool) -> None:
    assert refusal(Origins(), server, host=host) == (None if accepted else "host_not_allowed")


def test_allowed_hosts_are_names_of_the_server_too() -> None:
    rules = Origins(hosts=("llm.example", "*.lab.example"))
    for host in ("llm.example", "LLM.example:443", "a.lab.example", "localhost"):
        assert refusal(rules, host=host) is None
    for host in ("evil.example", "lab.example.evil.example", "xlab.example"):
        assert refusal(rules, host=host) == "host_not_allowed"
    assert refusal(Origins(hosts=("*",)), host="evil.example") is None


def test_with_a_key_every_name_will_do_unless_names_are_listed() -> None:
    assert refusal(Origins(keyed=True), NETWORK, host="any.example") is None
    assert refusal(Origins(keyed=True, hosts=("llm.example",)), NETWORK, host="any.example") == "host_not_allowed"


JSON = "application/json"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"content_type": "text/plain"}, None),
        ({"origin": "http://localhost:8000", "content_type": JSON}, None),
        ({"origin": "http://localhost:8000", "content_type": "text/plain"}, "unsupported_media_type"),
        ({"origin": "http://localhost:8000"}, "unsupported_media_type"),
        ({"origin": "http://evil.example", "content_type": JSON}, "origin_not_allowed"),
        ({"origin": "http://localhost:3000", "sec_fetch_site": "same-site"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({"sec_fetch_site": "cross-site"}, "origin_not_allowed"),
        ({"sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}, "origin_not_allowed"),
        ({"origin": "https://llm.example", "sec_fetch_site": "same-origin", "content_type": JSON}, None),
        ({"sec_fetch_site": "none"}, None),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], code: str | None) -> None:
    assert refusal(Origins(), host="localhost:8000", **headers) == code


@pytest.mark.parametrize(
    ("forwarded", "origin", "code"),
    [
        ("llm.lan", "http://llm.lan", None),
        ("llm.lan:8080", "http://llm.lan:8080", None),
        ("llm.lan", "http://evil.example", "origin_not_allowed"),
        ("evil.example", "http://evil.example", "host_not_allowed"),
        ("llm.lan, evil.example", "http://llm.lan", "host_not_allowed"),
        ("llm.lan, proxy.lan", "http://llm.lan", None),
    ],
)
def test_a_proxy_may_say_under_which_name_it_was_asked(forwarded: str, origin: str, code: str | None) -> None:
    headers = {"x_forwarded_host": forwarded, "origin": origin, "content_type": JSON}
    assert refusal(Origins(), host="127.0.0.1", **headers) == code


def test_a_link_from_another_site_opens_the_page_and_nothing_embeds_it() -> None:
    def follow(to: str) -> str | None:
        return refusal(Origins(), method="GET", host="localhost", sec_fetch_site="cross-site", sec_fetch_dest=to)

    assert follow("document") is None
    assert follow("image") == follow("iframe") == "origin_not_allowed"


def client(*origins: str) -> TestClient:
    app = FastAPI()
    app.state.ggserve = app_state(origins=Origins(origins=origins))

    @app.post("/ask")
    async def ask() -> str:
        return "yes"

    @app.post("/fail")
    async def fail() -> None:
        raise ZeroDivisionError

    install_error_handlers(app)
    app.add_middleware(OriginsMiddleware)
    return TestClient(app, base_url="http://localhost:8000")


FRIEND = "https://friend.example"
HEADERS = {"Origin": FRIEND, "Content-Type": JSON, "Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {
    "Origin": FRIEND,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
    "Access-Control-Request-Private-Network": "true",
}


@pytest.mark.parametrize("origins", [(FRIEND,), ("*",)])
def test_named_sites_get_what_browsers_ask_for(origins: tuple[str, ...]) -> None:
    friendly = client(*origins)
    preflight = friendly.options("/ask", headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] in (FRIEND, "*")
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for path, status in (("/ask", 200), ("/nowhere", 404)):
        answer = friendly.post(path, headers=HEADERS)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] in (FRIEND, "*")
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_all_extensions_of_a_browser_may_be_named_at_once() -> None:
    friendly = client("chrome-extension://*")
    origin = "chrome-extension://abcdefghijklmnop"
    answer = friendly.post("/ask", headers={**HEADERS, "Origin": origin})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert friendly.options("/ask", headers={**PREFLIGHT, "Origin": origin}).status_code == 200
    for other in ("moz-extension://abc", "https://abc", "chrome-extension://a/b", "xchrome-extension://a"):
        assert friendly.post("/ask", headers={**HEADERS, "Origin": other}).status_code == 403


@pytest.mark.parametrize("origins", [(), ("https://other.example",)])
def test_other_sites_get_nothing(origins: tuple[str, ...]) -> None:
    unfriendly = client(*origins)
    assert unfriendly.options("/ask", headers=PREFLIGHT).status_code in (400, 403)
    answer = unfriendly.post("/ask", headers=HEADERS)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert f"Pages of {FRIEND}" in answer.json()["error"]["message"]
