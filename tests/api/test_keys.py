"""A key opens the API; pages and the status are open to all."""

from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from ggserve.api.errors import install_error_handlers
from ggserve.api.keys import Keys, KeysMiddleware, read_keys
from tests.api.state import app_state, oops


@pytest.mark.parametrize(
    ("header", "value", "accepted"),
    [
        ("authorization", "Bearer one", True),
        ("authorization", "bearer two", True),
        ("x-api-key", "two", True),
        ("authorization", "one", False),
        ("authorization", "Basic one", False),
        ("authorization", "Bearer One", False),
        ("authorization", "Bearer ", False),
        ("x-api-key", "", False),
        ("x-api-key", "one,two", False),
        ("x-other", "one", False),
    ],
)
def test_which_headers_are_accepted(header: str, value: str, accepted: bool) -> None:
    assert Keys(("one", "two")).accept(Headers({header: value})) is accepted


def test_keys_need_not_be_ascii() -> None:
    sent = [(b"authorization", "Bearer schlüssel".encode())]
    assert Keys(["schlüssel"]).accept(Headers(raw=sent))


def test_keys_come_from_a_text_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\n\n  four \n")
    keys = read_keys("one, two,", file)
    assert all(keys.accept(Headers({"x-api-key": key})) for key in ("one", "two", "three", "four"))
    assert not keys.accept(Headers({"x-api-key": "five"}))
    assert not read_keys(None, None)


def test_no_key_where_keys_were_given_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValueError, match="API_KEY contains no key"):
        read_keys(" , ", None)
    with pytest.raises(ValueError, match="API_KEY_FILE contains no key"):
        read_keys("one", tmp_path / "keys")
    with pytest.raises(ValueError, match="nowhere cannot be read"):
        read_keys(None, tmp_path / "nowhere")


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.state.ggserve = app_state(keys=Keys(["secret"]), dialects={"/other": oops})

    @app.get("/health")
    @app.get("/v1/models")
    async def answer(request: Request) -> bool:
        return bool(request.state.known)

    @app.get("/web/page.js")
    async def page() -> None: ...

    install_error_handlers(app)
    app.add_middleware(KeysMiddleware)
    return TestClient(app)


def test_without_a_key_the_answer_is_a_401_in_the_dialect_of_the_path(client: TestClient) -> None:
    answer = client.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/other/thing").json()["status"] == 401
    assert client.get("/v1/models", headers={"x-api-key": "secret"}).status_code == 200


def test_unknown_paths_are_closed_and_the_status_and_pages_are_open(client: TestClient) -> None:
    assert client.get("/nothing/here").status_code == 401
    assert client.get("/web/page.js").status_code == 200
    assert client.get("/health").json() is False
    assert client.get("/health", headers={"x-api-key": "secret"}).json() is True
