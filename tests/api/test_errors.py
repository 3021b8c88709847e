"""Each error of a lower layer has one status, type and code."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ggserve.api.dialect import Envelopes
from ggserve.api.errors import APIError, api_error, install_error_handlers
from ggserve.api.keys import Keys
from ggserve.app import DIALECTS, create_app
from ggserve.errors import (
    ContextOverflow,
    EngineClosed,
    GenerationError,
    InvalidRequest,
    InvalidToken,
    QueueFull,
    TemplateError,
)
from tests.api.state import app_state, oops


def whole_app(**changes: Any) -> FastAPI:
    """Return the app as it is after its start, without a model; `changes` to its state."""
    app = create_app()
    app.state.ggserve = app_state(**{"envelopes": Envelopes(DIALECTS), **changes})
    return app


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ContextOverflow(9, 8), 400, "exceed_context_size_error", "context_length_exceeded"),
        (InvalidToken(9, 8), 400, "invalid_request_error", "invalid_token"),
        (InvalidRequest("no"), 400, "invalid_request_error", "invalid_request"),
        (TemplateError("no"), 400, "invalid_request_error", "chat_template_error"),
        (QueueFull(3), 429, "rate_limit_error", "queue_full"),
        (EngineClosed(), 503, "server_error", "shutting_down"),
        (GenerationError("why"), 500, "server_error", "generation_failed"),
        (ZeroDivisionError("why"), 500, "server_error", "internal_error"),
    ],
)
def test_status_type_and_code(error: Exception, status: int, kind: str, code: str) -> None:
    answer = api_error(error)
    assert (answer.status, answer.body["error"]["type"], answer.body["error"]["code"]) == (status, kind, code)
    assert str(error) in answer.body["error"]["message"]


def test_a_dialect_words_the_errors_of_its_own_paths() -> None:
    app = FastAPI()
    app.state.ggserve = app_state(dialects={"/other": oops})
    install_error_handlers(app)
    with TestClient(app) as client:
        assert client.get("/other/x").json() == {"oops": "Unknown path: GET /other/x", "status": 404}
        assert client.get("/x").json()["error"]["code"] == "unknown_url"


def test_an_api_error_stays_as_it_is() -> None:
    error = APIError(418, "a teapot", param="kettle")
    assert api_error(error) is error


@pytest.mark.parametrize("root", ["", "/llm", "/v1/messages"])
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/responses", "/v1/responses"),
        ("/docs/", "/docs"),
    ],
)
def test_a_path_that_is_nearly_right_is_named_and_nobody_is_redirected(root: str, path: str, meant: str) -> None:
    answer = TestClient(whole_app(), root_path=root).get(root + path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith(f"Did you mean {root}{meant}?")


@pytest.mark.parametrize("root", ["", "/llm", "/api", "/v1/messages"])
@pytest.mark.parametrize("keys", [Keys(), Keys(["secret"])])  # with a key the rejection comes before routing
def test_envelopes_follow_the_path_below_the_root(root: str, keys: Keys) -> None:
    client = TestClient(whole_app(keys=keys), root_path=root)
    for path in ("/v1/chat/completions", "/nothing", "/"):
        assert set(client.post(root + path).json()["error"]) == {"message", "type", "param", "code"}
    assert set(client.post(f"{root}/v1/messages").json()["error"]) == {"type", "message"}
    assert set(client.post(f"{root}/v1/messages/count_tokens").json()["error"]) == {"type", "message"}
    assert isinstance(client.post(f"{root}/api/chat").json()["error"], str)


@pytest.mark.parametrize("root", ["", "/llm"])
def test_open_paths_are_open_below_the_root(root: str) -> None:
    client = TestClient(whole_app(keys=Keys(["secret"])), root_path=root)
    assert client.get(f"{root}/docs").status_code == 200
    assert client.get(f"{root}/openapi.json").status_code == 200
    assert client.get(f"{root}/v1/models").status_code == 401


def test_the_docs_name_the_schema_below_the_root() -> None:
    client = TestClient(whole_app(), root_path="/llm")
    assert "/llm/openapi.json" in client.get("/llm/docs").text
    assert client.get("/llm/openapi.json").json()["servers"] == [{"url": "/llm"}]


def test_openapi_tells_the_errors_and_the_streams() -> None:
    paths = create_app().openapi()["paths"]
    for path in ("/v1/chat/completions", "/v2/chat/completions", "/v1/completions", "/v1/messages"):
        responses = paths[path]["post"]["responses"]
        assert {"400", "401", "429", "500"} <= set(responses)
        assert "422" not in responses
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/completions", {"error"}), ("/v1/messages", {"type", "error"}), ("/api/chat", {"error"})],
)
def test_openapi_tells_how_each_dialect_words_errors(path: str, fields: set[str]) -> None:
    schema = create_app().openapi()
    content = schema["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    body = schema["components"]["schemas"][content["$ref"].rpartition("/")[2]]
    assert body["properties"].keys() == fields
    assert (body["properties"]["error"].get("type") == "string") == path.startswith("/api/")


def test_openapi_tells_that_metrics_are_text() -> None:
    responses = create_app().openapi()["paths"]["/metrics"]["get"]["responses"]
    assert responses["200"]["content"].keys() == {"text/plain"}
    assert responses["401"]["content"].keys() == {"application/json"}


def test_a_405_names_the_methods_of_all_routes_of_the_path() -> None:
    app = FastAPI()
    app.state.ggserve = app_state()
    app.get("/x")(lambda: None)
    app.delete("/x")(lambda: None)
    install_error_handlers(app)
    with TestClient(app) as client:
        assert client.post("/x").headers["allow"] == "GET, DELETE"
