"""Decisions: probabilities that sum to 1 and are those of brute force, with labels of any length."""

import asyncio
import json
import math

import pytest

from ggserve.errors import InvalidRequest
from ggserve.generation import SamplingParams
from ggserve.model.decisions import Option, Question, with_question
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.labels import choose
from tests.conftest import FAMILY_FILES

STATE = [{"role": "user", "content": "I was charged twice for my order."}]
LABELS = ("billing", "no", "not sure", "technical support", "técnico 日本")


def choice(*labels: str) -> Question:
    return Question("choice", "Which?", tuple(Option(label) for label in labels), "questions.x")


def decide(model: GGUFModel, *questions: Question) -> list:
    return asyncio.run(model.decide(STATE, questions))


def mass(model: GGUFModel, prompt: list[int], tokens: list[int]) -> float:
    """The probability of some tokens after a prompt, from `echo` and `logprobs`."""

    async def scores() -> float:
        params = SamplingParams(max_tokens=0, logprobs=0, prompt_logprobs=True)
        deltas = [delta async for delta in model.complete([*prompt, *tokens], params)]
        return sum(token.logprob for token in deltas[0].prompt[len(prompt) :])

    return math.exp(asyncio.run(scores()))


def test_probabilities_are_those_of_brute_force(shallow_either: GGUFModel):
    question = choice(*LABELS)
    prompt = shallow_either.tokenize_chat(with_question(STATE, question.text))
    spelled = [[shallow_either._codec.encode_middle(space + label) for space in ("", " ")] for label in LABELS]
    sums = [sum(mass(shallow_either, prompt, tokens) for tokens in spellings) for spellings in spelled]
    sums[1] -= sum(mass(shallow_either, prompt, tokens) for tokens in spelled[2] if tokens[:1] in spelled[1])
    (decision,) = decide(
        shallow_either, question
    )  # continues from what brute force has evaluated, token by token: it rounds the same
    assert decision.label_mass == pytest.approx(sum(sums), rel=1e-3)
    for probability, one in zip(decision.probabilities, sums, strict=True):
        assert math.log(probability) == pytest.approx(math.log(one / sum(sums)), abs=1e-3)


def test_probabilities_sum_to_1_for_every_kind_of_question(shallow_either: GGUFModel):
    predicate = Question("predicate", "Is it late?", (Option("yes", None, ("Yes",)), Option("no", None, ("No",))), "x")
    score = Question("score", "How late?", tuple(Option(str(level), "late") for level in range(5)), "x")
    for decision in decide(shallow_either, predicate, score, choice(*LABELS)):
        assert sum(decision.probabilities) == pytest.approx(1, abs=1e-9)
        assert 0 < decision.label_mass <= 1
        assert 0 <= decision.confidence <= 1
        assert (decision.warning is None) == (decision.label_mass >= 0.5)


def test_the_state_is_evaluated_once(shallow_either: GGUFModel):
    first, *others = decide(shallow_either, *(choice("a", "b", f"c{number}") for number in range(3)))
    assert all(decision.cached_tokens > 10 for decision in others)
    assert all(decision.cached_tokens >= first.cached_tokens for decision in others)


def test_a_label_of_one_option_is_certain(shallow_either: GGUFModel):
    (decision,) = decide(shallow_either, choice("only"))
    assert (decision.probabilities, decision.confidence) == ((1.0,), 1.0)


@pytest.mark.parametrize("name", ["falcon", "gptj", "starcoder"])
def test_decisions_of_legacy_families(name: str):
    record = json.loads((FAMILY_FILES / f"{name}.json").read_text("utf-8"))
    path = FAMILY_FILES / f"{name}.f32.bin"
    model = GGUFModel(
        path, engine="ctransformers", model_type=record["family"], parallel=1, threads=1, chat_template="falcon"
    )
    try:
        prompt = list(record["files"][path.name][0]["ids"])
        labels = ["a", "e", "an", "the"]
        decision = asyncio.run(choose(model._loaded, prompt, labels, "x"))
        assert sum(decision.probabilities) == pytest.approx(1)
        first = mass(model, prompt, model._codec.encode_middle("e")) + mass(
            model, prompt, model._codec.encode_middle(" e")
        )
        assert decision.probabilities[1] * decision.label_mass == pytest.approx(first, rel=1e-3)
    finally:
        model.close()


def test_options_that_the_tokenizer_cannot_tell_apart_are_refused(shallow_either: GGUFModel):
    with pytest.raises(InvalidRequest, match="same tokens"):
        decide(shallow_either, choice("a", "a"))
    with pytest.raises(InvalidRequest, match="tokens"):
        decide(shallow_either, choice("a", "b" * 10 + "x y z " * 200))
