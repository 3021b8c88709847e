"""`field_confidence` and `choice_probabilities` over HTTP, whole and streamed, in each dialect that has them."""

import json
from typing import Any

import httpx
import pytest

from tests.conftest import Server

SCHEMA = {
    "type": "object",
    "properties": {"late": {"type": "boolean"}, "team": {"enum": ["billing", "bug"]}},
    "required": ["late", "team"],
}
MESSAGES = [{"role": "user", "content": "My parcel is late."}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
CHAT = {"messages": MESSAGES, "response_format": FORMAT, "max_tokens": 40, "temperature": 0, "field_confidence": True}


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = response.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def check(fields: dict[str, Any]) -> None:
    assert list(fields) == ["/late", "/team"]
    for field in fields.values():
        assert sum(one["probability"] for one in field["alternatives"]) == pytest.approx(1)


def test_chat_completions(server: Server):
    (choice,) = post(server, "/v1/chat/completions", **CHAT).json()["choices"]
    check(choice["field_confidence"])
    chunks = events(post(server, "/v1/chat/completions", **CHAT, stream=True))
    told = [one for chunk in chunks for one in chunk["choices"] if "field_confidence" in one]
    assert [one["finish_reason"] for one in told] == ["stop"]
    check(told[0]["field_confidence"])


def test_responses(server: Server):
    body = {
        "input": "My parcel is late.",
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
        "field_confidence": True,
    }
    check(post(server, "/v1/responses", **body).json()["field_confidence"])
    check(events(post(server, "/v1/responses", **body, stream=True))[-1]["response"]["field_confidence"])


def test_messages(server: Server):
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    body = {"messages": MESSAGES, "max_tokens": 40, "output_config": form, "field_confidence": True}
    check(post(server, "/v1/messages", **body).json()["field_confidence"])
    (delta,) = (
        event for event in events(post(server, "/v1/messages", **body, stream=True)) if event["type"] == "message_delta"
    )
    check(delta["field_confidence"])


def test_choices_of_chats_and_completions(server: Server):
    fields = {"guided_choice": ["billing", "bug"], "choice_probabilities": True, "max_tokens": 5}
    for path, prompt in (("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "It is"})):
        (choice,) = post(server, path, **prompt, **fields).json()["choices"]
        found = choice["choice_probabilities"]
        assert list(found["probabilities"]) == ["billing", "bug"]
        assert sum(found["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("field_confidence", {"response_format": {"type": "text"}}),
        (
            "response_format",
            {"response_format": {**FORMAT, "json_schema": {"schema": {"type": "object", "properties": {}}}}},
        ),
        ("field_confidence", {"field_confidence": "yes"}),
        ("choice_probabilities", {"field_confidence": False, "choice_probabilities": True}),
        (
            "guided_choice",
            {
                "field_confidence": False,
                "choice_probabilities": True,
                "guided_choice": ["a", "a"],
                "response_format": None,
            },
        ),
    ],
)
def test_what_makes_no_sense_is_a_400_that_names_the_field(server: Server, field: str, fields: dict[str, Any]):
    answer = post(server, "/v1/chat/completions", **{**CHAT, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
