"""The log-probabilities of continuations equal those that `echo` and `logprobs` report."""

import asyncio
import json

import pytest

from ggserve.errors import ContextOverflow
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import FAMILY_FILES
from tests.processes import PATIENCE

PROMPT = "Customer: I was charged twice for my order.\nThe right team is:"
LABELS = ["billing", "bill", "technical support", "technical", "日本の", "日曜日", "😀", "no", "not sure", "qzx vkj wq"]


def brute_force(model: GGUFModel, prompt: list[int], tokens: list[int]) -> list[float]:
    async def scores() -> list[float]:
        params = SamplingParams(max_tokens=0, logprobs=0, prompt_logprobs=True)
        deltas = [delta async for delta in model.complete([*prompt, *tokens], params)]
        return [token.logprob for token in deltas[0].prompt[len(prompt) :]]

    return asyncio.run(scores())


def check(model: GGUFModel, prompt: list[int], continuations: list[list[int]]) -> None:
    scores = asyncio.run(model.engine.score(prompt, continuations))
    assert scores.prompt_tokens == len(prompt)
    for tokens, logprobs in zip(continuations, scores.logprobs, strict=True):
        assert logprobs == pytest.approx(brute_force(model, prompt, tokens), abs=1e-3)


def test_scores_are_those_of_brute_force(shallow_either: GGUFModel):
    prompt = shallow_either.tokenize(PROMPT)
    check(
        shallow_either, prompt, [shallow_either.tokenize(f"{space}{label}") for label in LABELS for space in ("", " ")]
    )


def test_one_continuation_and_equal_ones(shallow_either: GGUFModel):
    prompt = shallow_either.tokenize(PROMPT)
    check(shallow_either, prompt, [shallow_either.tokenize(" billing and refunds")])
    check(shallow_either, prompt, [shallow_either.tokenize(" a"), shallow_either.tokenize(" a")])


@pytest.mark.parametrize("name", sorted(path.stem for path in FAMILY_FILES.glob("*.json")))
def test_scores_of_each_legacy_family(name: str):
    record = json.loads((FAMILY_FILES / f"{name}.json").read_text("utf-8"))
    file = f"{name}.f32.bin"
    run = record["files"][file][0]
    model = GGUFModel(FAMILY_FILES / file, engine="ctransformers", model_type=record["family"], parallel=1, threads=1)
    try:
        a, b, c = (list(run["continuation"][i : i + 3]) for i in range(3))
        check(model, run["ids"], [a, b, [*a[:1], *c], [*a[:2], *b]])
    finally:
        model.close()


def test_what_does_not_fit_the_context_is_refused(shallow_either: GGUFModel):
    prompt = shallow_either.tokenize("a b c d " * 40)[:120]
    with pytest.raises(ContextOverflow):
        asyncio.run(
            shallow_either.engine.score(
                prompt, [shallow_either.tokenize(" one two three four five six seven eight nine ten")]
            )
        )


def test_walks_at_the_same_time_equal_walks_alone(shallow_either: GGUFModel):
    prompts = [shallow_either.tokenize(f"{PROMPT} {word}") for word in ("the", "a", "one")]
    labels = [shallow_either.tokenize(f" {label}") for label in LABELS[:4]]

    async def together() -> list:
        return await asyncio.gather(*(shallow_either.engine.score(prompt, labels) for prompt in prompts))

    for prompt, scores in zip(prompts, asyncio.run(together()), strict=True):
        alone = asyncio.run(shallow_either.engine.score(prompt, labels))
        for some, others in zip(scores.logprobs, alone.logprobs, strict=True):
            assert some == pytest.approx(others, abs=0.1)  # a batch with others rounds differently


def test_a_cancelled_walk_frees_its_slot(shallow_either: GGUFModel):
    async def cancelled() -> None:
        walk = asyncio.ensure_future(
            shallow_either.engine.score(shallow_either.tokenize(PROMPT), [shallow_either.tokenize(" a b c d e f g")])
        )
        await asyncio.sleep(0.01)
        walk.cancel()
        await asyncio.gather(walk, return_exceptions=True)
        while shallow_either.occupancy.idle < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancelled(), PATIENCE))
