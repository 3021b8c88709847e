"""Invalid requests are a 400 that names the field, in the form of each dialect."""

from typing import Any

import httpx
import pytest

from tests.conftest import Server

MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
IMAGE = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
BAD_SCHEMA = {"type": "json_schema", "schema": {"type": "x"}}
SAMPLING: list[tuple[str, list[Any]]] = [("temperature", [-1, 2.5, "1"]), ("top_p", [2, "x"]), ("stream", ["yes", 1])]
DIALECTS: dict[str, tuple[dict[str, Any], list[tuple[str, list[Any]]]]] = {
    "/v1/responses": (
        {"input": "Hi"},
        [
            *SAMPLING,
            ("input", [5, [5], [{"type": "x"}], [{"role": "user"}]]),
            ("instructions", [5]),
            ("previous_response_id", ["resp_none", 5]),
            ("max_output_tokens", [0, -1, 1.5, "5", 10**30]),
            ("tools", [5, [{}], [{"type": "function"}]]),
            ("tool_choice", [5, "always", "required", {"type": "function", "name": "f"}]),
            ("text", [5, {"format": {"type": "json_schema"}}]),
            ("reasoning", ["high"]),
            ("truncation", ["some"]),
            ("background", [True]),
            ("top_logprobs", [21, -1]),
        ],
    ),
    "/v1/messages": (
        {**MESSAGES, "max_tokens": 5},
        [
            *SAMPLING,
            ("messages", [None, [], "Hi", [{"role": "x", "content": "Hi"}], [{"role": "user", "content": [IMAGE]}]]),
            ("max_tokens", [None, -1, "5", 10**30]),
            ("system", [5, [IMAGE]]),
            ("stop_sequences", ["x", ["x"] * 17]),
            ("top_k", [-1, "x"]),
            ("tools", [5, [{"name": "f"}], [{"name": "", "input_schema": {}}]]),
            ("tool_choice", ["any", {"type": "any"}, {"type": "tool", "name": "f"}]),
            ("thinking", [True, {"type": "x"}]),
            ("output_config", [5, {"format": {"type": "x"}}, {"format": BAD_SCHEMA}]),
            ("output_format", [5, {"type": "json_schema"}, BAD_SCHEMA]),
            ("mcp_servers", [[{"type": "url"}]]),
            ("container", ["x"]),
        ],
    ),
    "/api/chat": (
        MESSAGES,
        [
            ("messages", ["Hi", [{"role": "x"}], [{"role": "user", "content": "Hi", "images": ["x"]}]]),
            ("options", [5, {"temperature": 3}, {"top_k": -1}, {"num_predict": "x"}, {"stop": [5]}]),
            ("format", ["xml", 5, {"type": "x"}]),
            ("tools", [5, [{"type": "function"}]]),
            ("think", [5]),
            ("stream", ["yes"]),
        ],
    ),
    "/api/generate": (
        {"prompt": "Hi"},
        [("prompt", [5]), ("options", [{"seed": 1.5}]), ("template", ["x"]), ("context", [[1]]), ("images", [["x"]])],
    ),
    "/api/embed": ({"input": "Hi"}, [("input", [5, [5]]), ("dimensions", [0, "x"])]),
    "/v1/rerank": (
        {"query": "a", "documents": ["b"]},
        [("query", [5, None]), ("documents", [5, [], [5], [{}]]), ("top_n", [0, "x"])],
    ),
    "/infill": (
        {"input_prefix": "a", "input_suffix": "b"},
        [
            ("temperature", [-0.1, "hot"]),
            ("top_p", [-0.1, 1.1]),
            ("input_prefix", [5, None]),
            ("input_extra", [5, [{}]]),
            ("n_predict", [-2, "x"]),
            ("n_indent", [-1, "x"]),
            ("json_schema", [5]),
            ("logit_bias", [{"x": 1}]),
            ("mirostat", [3]),
        ],
    ),
}


@pytest.mark.parametrize("path", DIALECTS)
def test_a_field_that_makes_no_sense_is_named(server: Server, path: str):
    body, table = DIALECTS[path]
    with httpx.Client(base_url=server.url) as client:
        for field, values in table:
            for value in values:
                answer = client.post(path, json={**body, field: value})
                assert answer.status_code in (400, 404), (field, value, answer.text)
                error = answer.json()["error"]
                if path.startswith("/api/"):
                    assert field in error, (field, value)
                elif path == "/v1/messages":
                    assert error["type"] == "invalid_request_error"
                    assert field in error["message"], (field, value, error)
                else:
                    assert error["param"].split(".")[0] == field, (field, value, error)
                assert "pydantic" not in answer.text
