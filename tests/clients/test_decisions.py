"""Decisions with OpenAI's SDK and LangChain's class."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai.decisions import Choice, OpenAIDecisions, Predicate, Score
from openai import OpenAI

INPUT = "The parcel arrived late and damaged. I want my money back."


def test_openai(url: str):
    decision = OpenAI(base_url=url, api_key="none").decisions.create(
        model="default",
        input=[{"role": "user", "content": [{"type": "input_text", "text": INPUT}]}],
        questions=[
            {"type": "predicate", "name": "refund", "instructions": "Does the customer ask for a refund?"},
            {"type": "choice", "instructions": "Which tone?", "choices": [{"value": "angry"}, {"value": "calm"}]},
            {"type": "score", "name": "u", "instructions": "Urgent?", "levels": [{"label": "low"}, {"label": "high"}]},
        ],
    )
    predicate, choice, score = decision.answers
    assert (predicate.name, choice.name, score.name) == ("refund", None, "u")
    assert 0 < predicate.probability < 1
    assert choice.choice in ("angry", "calm")
    assert sum(one.probability for one in choice.probabilities) == pytest.approx(1)
    assert [one.label for one in score.probabilities] == ["low", "high"]
    assert (decision.usage.output_tokens, decision.usage.input_tokens > 0) == (0, True)


@pytest.mark.parametrize(
    "state", [INPUT, {"text": INPUT}, [HumanMessage(INPUT)], [SystemMessage("Be brief."), HumanMessage(INPUT)]]
)
def test_langchain(url: str, state):
    questions = {
        "department": Choice(instructions="Which team?", choices={"billing": "Payments.", "technical": "Bugs."}),
        "urgent": Predicate(instructions="Is it urgent?"),
        "frustration": Score(instructions="How frustrated?", levels=["Calm", "Concerned", "Angry"]),
    }
    answers = OpenAIDecisions(model="default", base_url=url, api_key="none").invoke(
        {"input": state, "questions": questions}
    )
    assert answers.choices["department"].choice in ("billing", "technical")
    assert 0 < answers.predicates["urgent"].probability < 1
    assert 0 <= answers.scores["frustration"].score <= 2
