"""Confidence in structured answers: probabilities within the schema, on both engines and legacy families."""

import asyncio
import dataclasses
import json
import math
from typing import Any

import pytest

from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, Grammar, SamplingParams, schema_grammar
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import FAMILY_FILES

SCHEMA = {
    "type": "object",
    "properties": {
        "late": {"type": "boolean"},
        "team": {"enum": ["billing", "bug", "shipping", None]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "name": {"type": "string", "maxLength": 6},
    },
    "required": ["late", "team", "count", "name"],
}
PROMPT = "A parcel is late. As JSON:"


async def deltas_of(model: GGUFModel, schema: Any, prompt: Any = PROMPT, **params: Any) -> list[Delta]:
    grammar = schema_grammar(schema, "response_format")
    wanted = SamplingParams(**{"max_tokens": 60, "temperature": 0, "confidence": "field_confidence"} | params)
    return [delta async for delta in model.complete(prompt, dataclasses.replace(wanted, grammar=grammar))]


def fields_of(deltas: list[Delta]) -> dict[str, Any]:
    assert [delta.confidence for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    return dict(deltas[-1].confidence["field_confidence"])


def test_every_leaf_has_a_probability_and_alternatives_sum_to_1(shallow_either: GGUFModel):
    deltas = asyncio.run(deltas_of(shallow_either, SCHEMA))
    fields, answer = fields_of(deltas), json.loads("".join(delta.text for delta in deltas))
    assert list(fields) == ["/late", "/team", "/count", "/name"]
    for pointer, field in fields.items():
        assert 0 < field["probability"] <= 1
        if "alternatives" in field:
            assert sum(one["probability"] for one in field["alternatives"]) == pytest.approx(1)
            chosen = [one for one in field["alternatives"] if one["value"] == answer[pointer[1:]]]
            assert [one["probability"] for one in chosen] == [field["probability"]]
    assert [one["value"] for one in fields["/late"]["alternatives"]] == [True, False]
    assert [one["value"] for one in fields["/team"]["alternatives"]] == ["billing", "bug", "shipping", None]
    assert "alternatives" not in fields["/count"]


def check_boolean(model: GGUFModel, prompt: list[int]) -> None:
    """The probabilities of true and false are their shares of the model's own probability."""
    fields = fields_of(asyncio.run(deltas_of(model, {"type": "boolean"}, prompt)))
    spelled = [model._codec.encode_middle(text) for text in ("true", "false")]
    found = {one["value"]: one["probability"] for one in fields[""]["alternatives"]}
    assert sum(found.values()) == pytest.approx(1)
    scores = asyncio.run(model.engine.score(prompt, [tokens[:1] for tokens in spelled])).logprobs
    likely = [math.exp(logprob) for (logprob,) in scores]
    if spelled[0][0] != spelled[1][0] and all(len(tokens) == 1 for tokens in spelled):
        assert math.log(found[True]) == pytest.approx(math.log(likely[0] / sum(likely)), abs=0.05)


def test_a_boolean_is_as_likely_as_its_token_among_the_two(shallow_either: GGUFModel):
    check_boolean(shallow_either, shallow_either.tokenize("Is the sky blue? true or false:\n"))


@pytest.mark.parametrize("name", ["starcoder", "gptj"])
def test_fields_of_legacy_families(name: str):
    record = json.loads((FAMILY_FILES / f"{name}.json").read_text("utf-8"))
    path = FAMILY_FILES / f"{name}.f32.bin"
    model = GGUFModel(path, engine="ctransformers", model_type=record["family"], parallel=1, threads=1)
    try:
        check_boolean(model, list(record["files"][path.name][0]["ids"])[:6])
    finally:
        model.close()


def test_the_answer_and_its_logprobs_stay_the_same(shallow_either: GGUFModel):
    plain = asyncio.run(deltas_of(shallow_either, SCHEMA, confidence=None, logprobs=2, max_tokens=12))
    told = asyncio.run(deltas_of(shallow_either, SCHEMA, logprobs=2, max_tokens=12))
    assert "".join(delta.text for delta in plain) == "".join(delta.text for delta in told)
    assert [[one.id for one in token.top] for delta in plain for token in delta.tokens] == [
        [one.id for one in token.top] for delta in told for token in delta.tokens
    ]
    silent = asyncio.run(deltas_of(shallow_either, SCHEMA, max_tokens=12))
    assert not any(delta.tokens for delta in silent)


def test_an_answer_that_is_cut_has_the_fields_before(shallow_either: GGUFModel):
    fields = fields_of(asyncio.run(deltas_of(shallow_either, SCHEMA, max_tokens=10)))
    assert list(fields) == ["/late", "/team", "/count", "/name"][: len(fields)]


def test_choices_have_their_probabilities(shallow_either: GGUFModel):
    grammar = Grammar("choice", json.dumps(["yes", "no", "no idea"]), "guided_choice")
    params = SamplingParams(max_tokens=9, temperature=0, grammar=grammar, confidence="choice_probabilities")

    async def last() -> Delta:
        return [delta async for delta in shallow_either.complete(PROMPT, params)][-1]

    found = asyncio.run(last()).confidence["choice_probabilities"]
    assert list(found["probabilities"]) == ["yes", "no", "no idea"]
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert 0 < found["label_mass"] <= 1


@pytest.mark.parametrize(
    ("field", "confidence", "grammar"),
    [
        ("field_confidence", "field_confidence", None),
        ("field_confidence", "field_confidence", Grammar("choice", '["a"]', "guided_choice")),
        ("x", "field_confidence", schema_grammar({"type": "object", "properties": {}}, "x")),
        ("choice_probabilities", "choice_probabilities", schema_grammar({}, "x")),
        (
            "guided_choice",
            "choice_probabilities",
            Grammar("choice", json.dumps([f"c{n}" for n in range(257)]), "guided_choice"),
        ),
        ("guided_choice", "choice_probabilities", Grammar("choice", '["a", "a"]', "guided_choice")),
    ],
)
def test_what_makes_no_sense_is_refused(
    shallow_either: GGUFModel, field: str, confidence: Any, grammar: Grammar | None
):
    async def answered() -> None:
        params = SamplingParams(max_tokens=9, grammar=grammar, confidence=confidence)
        async for _ in shallow_either.complete(PROMPT, params):
            pass

    with pytest.raises(InvalidRequest) as error:
        asyncio.run(answered())
    assert error.value.field == field
