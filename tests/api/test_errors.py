"""Each error from below has one status, type and code."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ggserve.api.errors import APIError, api_error, install_error_handlers
from ggserve.app import create_app
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


def whole_app() -> FastAPI:
    """The app as it is after its start, without a model."""
    app = create_app()
    app.state.ggserve = app_state()
    return app


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ContextOverflow(9, 8), 400, "invalid_request_error", "context_length_exceeded"),
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
    app.state.ggserve = app_state(envelopes={"/other": oops})
    install_error_handlers(app)
    with TestClient(app) as client:
        assert client.get("/other/x").json() == {"oops": "Unknown path: GET /other/x", "status": 404}
        assert client.get("/x").json()["error"]["code"] == "unknown_url"


def test_an_api_error_stays_as_it_is() -> None:
    error = APIError(418, "a teapot", param="kettle")
    assert api_error(error) is error


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/docs/", "/docs"),
    ],
)
def test_a_path_that_is_nearly_right_is_named_and_nobody_is_redirected(path: str, meant: str) -> None:
    answer = TestClient(whole_app()).get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith(f"Did you mean {meant}?")


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
