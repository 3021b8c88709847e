"""`/v1/systemone` and `/v1/decisions` on the real server."""

from typing import Any

import httpx
import pytest

from tests.conftest import Server

STATE = "I was charged twice for my order, and nobody has replied."
QUESTIONS = {
    "route": {"type": "choice", "instructions": "Which team?", "criteria": {"billing": "payments", "shipping": None}},
    "urgency": {"type": "score", "instructions": "How urgent?", "criteria": ["can wait", "this week", "right now"]},
    "angry": {"type": "noul", "instructions": "Is the customer angry?", "criteria": {"true": "It sounds so."}},
}


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)


def test_system_one_answers_by_question(server: Server):
    answer = post(server, "systemone", state=STATE, questions=QUESTIONS).json()
    route, urgency, angry = (answer["answers"][name] for name in ("route", "urgency", "angry"))
    assert set(route["probabilities"]) == {"billing", "shipping"}
    assert route["choice"] == max(route["probabilities"], key=route["probabilities"].get)
    assert urgency["legend"] == {"0": "can wait", "1": "this week", "2": "right now"}
    weighted = sum(int(level) * probability for level, probability in urgency["probabilities"].items())
    assert urgency["score"] == pytest.approx(weighted)
    for one in (route, urgency):
        assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert 0 < angry["noul"] < 1
    assert answer["diagnostics"].keys() == QUESTIONS.keys()
    assert answer["usage"]["output_tokens"] == 0
    assert answer["usage"]["input_tokens"] > 0


@pytest.mark.parametrize(
    "state",
    [{"order": 7, "texts": ["late"]}, [{"role": "user", "content": STATE}, {"role": "assistant", "content": "Sorry."}]],
)
def test_a_state_is_json_or_a_chat(server: Server, state: Any):
    answer = post(server, "systemone", state=state, questions={"a": QUESTIONS["angry"]})
    assert answer.status_code == 200
    assert 0 < answer.json()["answers"]["a"]["noul"] < 1


def test_both_shapes_say_the_same(server: Server):
    ours = post(server, "systemone", state=STATE, questions=QUESTIONS).json()["answers"]
    questions = [
        {
            "type": "choice",
            "instructions": "Which team?",
            "choices": [{"value": "billing", "description": "payments"}, {"value": "shipping"}],
        },
        {
            "type": "score",
            "name": "u",
            "instructions": "How urgent?",
            "levels": [{"label": "can wait"}, {"label": "this week"}, {"label": "right now"}],
        },
    ]
    choice, score = post(server, "decisions", input=STATE, questions=questions).json()["answers"]
    assert (choice["type"], choice["name"], score["name"]) == ("choice", None, "u")
    assert {one["value"]: one["probability"] for one in choice["probabilities"]} == pytest.approx(
        ours["route"]["probabilities"], abs=0.05
    )
    assert [(one["value"], one["label"]) for one in score["probabilities"]] == [
        (0, "can wait"),
        (1, "this week"),
        (2, "right now"),
    ]
    assert score["score"] == pytest.approx(ours["urgency"]["score"], abs=0.1)


def test_a_boolean_and_the_text_of_it_are_two_options(server: Server):
    question = {"type": "choice", "instructions": "?", "choices": [{"value": True}, {"value": "true"}, {"value": "no"}]}
    (answer,) = post(server, "decisions", input="x", questions=[question]).json()["answers"]
    assert [one["value"] for one in answer["probabilities"]] == [True, "true", "no"]


def test_messages_with_json_and_calls_are_an_input(server: Server):
    items = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Look:"}, {"type": "input_json", "data": {"a": 1}}],
        },
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "nothing"},
    ]
    question = {"type": "predicate", "instructions": [{"type": "input_text", "text": "Is it late?"}]}
    (answer,) = post(server, "decisions", input=items, questions=[question]).json()["answers"]
    assert 0 < answer["probability"] < 1


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("questions", {"questions": {}}),
        ("questions", {"questions": {str(number): QUESTIONS["angry"] for number in range(65)}}),
        ("questions.q", {"questions": {"q": {"type": "choice", "criteria": {}}}}),
        ("questions.q", {"questions": {"q": {"type": "choice"}}}),
        ("questions.q", {"questions": {"q": {"type": "choice", "criteria": {" ": None}}}}),
        ("questions.q", {"questions": {"q": {"type": "choice", "criteria": ["a", "a "]}}}),
        ("questions.q", {"questions": {"q": {"type": "choice", "criteria": {str(n): None for n in range(257)}}}}),
        ("questions.q", {"questions": {"q": {"type": "score", "criteria": ["one"]}}}),
        ("questions.q", {"questions": {"q": {"type": "score", "criteria": ["one", ""]}}}),
        ("questions.q", {"questions": {"q": {"type": "noul", "criteria": {"maybe": "x"}}}}),
        ("questions.q.type", {"questions": {"q": {"type": "essay"}}}),
        ("state", {"state": None}),
        ("state", {"state": ""}),
        ("state", {"state": "word " * 3000}),
    ],
)
def test_bad_input_is_a_400_that_names_the_field(server: Server, field: str, body: dict[str, Any]):
    answer = post(server, "systemone", **{"state": STATE, "questions": QUESTIONS, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("choices", {"type": "choice", "instructions": "?", "choices": []}),
        ("choices", {"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": "a"}]}),
        ("levels", {"type": "score", "instructions": "?", "levels": [{"label": "a"}]}),
        ("instructions", {"type": "predicate"}),
    ],
)
def test_bad_questions_of_openai_are_a_400_that_names_the_field(server: Server, field: str, question: dict[str, Any]):
    answer = post(server, "decisions", input="x", questions=[question])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"questions.0.{field}"
