"""`POST /v1/decisions` and `POST /v1/systemone`: typed questions, answered with probabilities instead of text.

The same feature in two formats: OpenAI's, and TypeSafe's System One format, which vLLM, llama.cpp and Ollama support.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.call import Call, call_of
from ggserve.api.features import require, visible
from ggserve.api.openai.schemas.decisions import (
    AnyQuestion,
    ChoiceQuestion,
    DecisionsRequest,
    PredicateQuestion,
    SystemOneQuestion,
    SystemOneRequest,
)
from ggserve.api.streaming import json_response, while_connected
from ggserve.model.decisions import Decision

router = APIRouter(route_class=GeneratingRoute, tags=["decisions"])


@router.post("/v1/systemone")
async def systemone(call: Annotated[Call[SystemOneRequest], Depends(call_of(SystemOneRequest))]) -> Response:
    """The answers to typed questions about a state, by question id."""
    decisions = await _decided(call, "state")
    questions = call.body.questions
    answers = {
        name: _answer(question, decision)
        for (name, question), decision in zip(questions.items(), decisions, strict=True)
    }
    return json_response(
        {
            "id": f"decision-{uuid.uuid4().hex}",
            "object": "structured_decision",
            "created": int(time.time()),
            "model": call.model.name,
            "answers": answers,
            "usage": _usage(decisions),
            "diagnostics": {
                name: {"label_mass": decision.label_mass} for name, decision in zip(questions, decisions, strict=True)
            },
        }
    )


@router.post("/v1/decisions")
async def decisions(call: Annotated[Call[DecisionsRequest], Depends(call_of(DecisionsRequest))]) -> Response:
    """The answers to typed questions about an input, in the order of the questions."""
    decisions = await _decided(call, "input")
    answers = [
        _openai_answer(question, decision) for question, decision in zip(call.body.questions, decisions, strict=True)
    ]
    return json_response({"model": call.model.name, "answers": answers, "usage": _usage(decisions)})


async def _decided(call: Call[SystemOneRequest] | Call[DecisionsRequest], field: str) -> list[Decision]:
    require(call.model, "generation", "model")
    messages = visible(call.model, call.body.messages(), field)
    return await while_connected(call.request, call.model.decide(messages, call.body.all_questions()))


def _usage(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Return the tokens of all prompts. The state counts for each question; tokens evaluated before are `cached`."""
    tokens = sum(decision.prompt_tokens for decision in decisions)
    cached = sum(decision.cached_tokens for decision in decisions)
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


def _told(decision: Decision) -> dict[str, Any]:
    warning = {"warning": decision.warning} if decision.warning else {}
    return {"confidence": decision.confidence, "label_mass": decision.label_mass, **warning}


def _answer(question: SystemOneQuestion, decision: Decision) -> Mapping[str, Any]:
    probabilities = decision.probabilities
    if question.type == "choice":
        names = question.choices
        found: dict[str, Any] = {"choice": names[decision.best]}
    elif question.type == "score":
        names = [str(index) for index in range(len(probabilities))]
        found = {"score": decision.score, "legend": dict(zip(names, question.levels, strict=True))}
    else:
        return {"type": question.type, "noul": probabilities[0], **_told(decision)}
    return {
        "type": question.type,
        **found,
        "probabilities": dict(zip(names, probabilities, strict=True)),
        **_told(decision),
    }


def _openai_answer(question: AnyQuestion, decision: Decision) -> Mapping[str, Any]:
    head = {"type": question.type, "name": question.name}
    if isinstance(question, PredicateQuestion):
        return {**head, "probability": decision.probabilities[0], **_told(decision)}
    if isinstance(question, ChoiceQuestion):
        values = [choice.value for choice in question.choices]
        probabilities = [
            {"value": value, "probability": probability}
            for value, probability in zip(values, decision.probabilities, strict=True)
        ]
        return {**head, "choice": values[decision.best], "probabilities": probabilities, **_told(decision)}
    probabilities = [
        {"value": index, "label": level.label, "probability": probability}
        for index, (level, probability) in enumerate(zip(question.levels, decision.probabilities, strict=True))
    ]
    return {**head, "score": decision.score, "probabilities": probabilities, **_told(decision)}
