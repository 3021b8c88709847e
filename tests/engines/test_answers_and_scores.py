"""Several answers to a prompt, and log-probabilities: one suite for both engines."""

import asyncio
import dataclasses
import math
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
import xllamacpp

from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers.context import Context
from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, Grammar, SamplingParams, ScoredToken
from ggserve.model.gguf_model import GGUFModel
from tests.llama_server import can, rounds
from tests.processes import PATIENCE

GREEDY = SamplingParams(max_tokens=8, temperature=0)
PROMPT = "The three primary colours are"


def replace(**changes) -> SamplingParams:
    return dataclasses.replace(GREEDY, **changes)


def deltas(stream: AsyncGenerator[Delta, None]) -> list[Delta]:
    async def collect() -> list[Delta]:
        return [delta async for delta in stream]

    return asyncio.run(collect())


def texts(found: list[Delta]) -> list[str]:
    answers: dict[int, str] = {}
    for delta in found:
        answers[delta.index] = answers.get(delta.index, "") + delta.text
    return [answers[index] for index in sorted(answers)]


def tokens(found: list[Delta]) -> list[ScoredToken]:
    return [token for delta in found for token in delta.tokens]


def shown(scores: list[ScoredToken]) -> bytes:
    return b"".join(token.bytes for token in scores if not token.control)


def test_answer_i_is_that_of_seed_plus_i(shallow_either: GGUFModel):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=5, n=3)
    together = deltas(shallow_either.complete("Once upon a time", params))
    alone = [
        texts(deltas(shallow_either.complete("Once upon a time", dataclasses.replace(params, seed=5 + index, n=1))))[0]
        for index in range(3)
    ]
    assert texts(together) == alone
    assert len(set(alone)) == 3
    assert [delta.index for delta in together if delta.finish_reason] == [0, 1, 2]


def test_the_prompt_of_several_answers_is_evaluated_once(shallow_either: GGUFModel):
    prompt = "Dogs and birds and trees are " * 6
    found = deltas(shallow_either.complete(prompt, replace(n=3)))
    cached = {delta.index: delta.cached_tokens for delta in found}
    assert cached[1] == cached[2] == found[0].prompt_tokens - 1


def test_each_of_several_answers_ends_at_its_own_stop_string(shallow_either: GGUFModel):
    params = SamplingParams(max_tokens=12, temperature=1.2, seed=1, n=3)
    whole = texts(deltas(shallow_either.complete("Once upon a time", params)))
    stop = whole[0][6:9]
    stopped = texts(deltas(shallow_either.complete("Once upon a time", dataclasses.replace(params, stop=(stop,)))))
    assert stopped == [text.partition(stop)[0] for text in whole]


def test_nothing_wanted_of_several_answers(shallow_either: GGUFModel):
    found = deltas(shallow_either.complete(PROMPT, replace(n=3, max_tokens=0)))
    assert [(delta.index, delta.text, delta.finish_reason) for delta in found] == [(i, "", "length") for i in range(3)]


def test_scores_are_of_the_text_and_greedy_takes_the_likeliest(shallow_either: GGUFModel):
    found = deltas(shallow_either.complete(PROMPT, replace(logprobs=5)))
    scores = tokens(found)
    assert shown(scores).decode() == texts(found)[0]
    assert len(scores) == found[-1].completion_tokens
    for token in scores:
        assert token.id == token.top[0].id
        assert token.logprob == token.top[0].logprob <= 0
        assert len(token.top) == 5
        assert [other.logprob for other in token.top] == sorted((t.logprob for t in token.top), reverse=True)
        assert sum(math.exp(other.logprob) for other in token.top) <= 1 + 1e-6


def test_both_engines_find_tokens_about_equally_likely(ctransformers_model: GGUFModel, llama_cpp_model: GGUFModel):
    """Each rounds the activations of a quantized model differently."""
    params = replace(logprobs=20, max_tokens=1)
    a, b = (tokens(deltas(model.complete(PROMPT, params)))[0] for model in (ctransformers_model, llama_cpp_model))
    by_id = {token.id: token for token in b.top}
    both = [token for token in a.top if token.id in by_id]
    assert len(both) > 15
    for token in both:
        assert token.bytes == by_id[token.id].bytes
        assert token.logprob == pytest.approx(by_id[token.id].logprob, abs=0.25)  # ROUNDING of test_reference


def test_the_scores_of_ctransformers_are_those_of_its_logits(ctransformers_model: GGUFModel, default_path: Path):
    context = Context(default_path, "gguf", EngineOptions(context_length=128))
    context.open()
    context.eval(ctransformers_model.tokenize(PROMPT), threads=1)
    logits = context.logits().astype(np.float64)
    context.close()
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    told = tokens(deltas(ctransformers_model.complete(PROMPT, replace(logprobs=20, max_tokens=1))))[0]
    assert len(told.top) == 20
    for token in told.top:
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-3)


def test_the_scores_of_llama_cpp_are_those_of_its_core_alone(llama_cpp_model: GGUFModel, original_path: Path):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(original_path), 256, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    body = {"prompt": PROMPT, "n_predict": 1, "temperature": 0, "logprobs": 20, "cache_prompt": False}
    bare = xllamacpp.Server(params).handle_completions(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    told = tokens(deltas(llama_cpp_model.complete(PROMPT, replace(logprobs=20, max_tokens=1))))[0]
    assert told.top[0].id == bare[0]["id"]
    for token, entry in zip(told.top, bare, strict=True):
        assert token.logprob == pytest.approx(entry["logprob"], abs=1e-3)


def test_scores_do_not_depend_on_how_tokens_are_chosen(shallow_either: GGUFModel):
    if not can(shallow_either, "logprobs_before_bias"):
        pytest.skip("the build reports scores after the bias")
    plain = tokens(deltas(shallow_either.complete(PROMPT, replace(logprobs=3, max_tokens=1))))[0]
    unlikely = shallow_either.tokenize(" green")[0]
    changed = replace(
        logprobs=3, max_tokens=1, temperature=1.5, top_p=0.5, repetition_penalty=1.3, logit_bias={unlikely: 100.0}
    )
    forced = tokens(deltas(shallow_either.complete(PROMPT, changed)))[0]
    assert forced.id == unlikely
    assert [(t.id, pytest.approx(t.logprob, abs=1e-3)) for t in plain.top] == [(t.id, t.logprob) for t in forced.top]


def test_without_alternatives_only_the_token_itself(shallow_either: GGUFModel):
    found = tokens(deltas(shallow_either.complete(PROMPT, replace(logprobs=0))))
    assert len(found) == 8
    assert all(token.top == () and token.logprob <= 0 for token in found)


def test_not_asked_for_there_are_none(shallow_either: GGUFModel):
    found = deltas(shallow_either.complete(PROMPT, GREEDY))
    assert tokens(found) == []
    assert all(delta.prompt == () for delta in found)


@pytest.mark.parametrize("length", [1, 3, 6])
def test_no_score_of_what_a_stop_string_cut_off(shallow_either: GGUFModel, length: int):
    whole = texts(deltas(shallow_either.complete(PROMPT, GREEDY)))[0]
    stop = whole[10 : 10 + length]
    found = deltas(shallow_either.complete(PROMPT, replace(stop=(stop,), logprobs=1)))
    text, scores = texts(found)[0].encode(), tokens(found)
    assert shown(scores).startswith(text)
    assert not shown(scores[:-1]).startswith(text) or scores == []


def test_characters_split_over_tokens_have_all_their_scores(shallow_either: GGUFModel):
    params = replace(logprobs=2, max_tokens=16, grammar=Grammar("choice", '["🦀 and 🦀."]'))
    found = deltas(shallow_either.complete(PROMPT, params))
    scores = [token for token in tokens(found) if not token.control]
    assert shown(scores).decode() == texts(found)[0] == "🦀 and 🦀."
    assert max(len(token.bytes) for token in scores if token.bytes[-1:] == "🦀".encode()[-1:]) < len("🦀".encode())
    ids = shallow_either.tokenize(PROMPT)
    prompt = [*ids, *(token.id for token in scores)]
    again = deltas(shallow_either.complete(prompt, replace(logprobs=2, max_tokens=0, prompt_logprobs=2)))[0].prompt
    expected = [pytest.approx(token.logprob, abs=0.1) for token in again[len(ids) :]]
    assert [token.logprob for token in scores] == expected


@pytest.mark.parametrize("transport", ["llama_cpp_model", "child_model"])
def test_a_part_of_a_character_is_as_likely_as_its_place_among_the_likeliest(
    transport: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    model: GGUFModel = request.getfixturevalue(transport)
    ids = model.tokenize(f"{PROMPT}🦀 and 🦀.")
    scorer = model.engine._scorer  # type: ignore[attr-defined]
    forced, whole = scorer._forced, scorer._whole_token
    # Like builds that report nothing for such a token.
    monkeypatch.setattr(scorer, "_forced", lambda *of: forced(*of) if of[1] == whole else None)
    compared = 0
    for position in [*range(len(model.tokenize(PROMPT)), len(ids))] * 4:  # it is found by sampling
        found = scorer.score(ids[:position], ids[position], 20)
        for place in found.top:
            if place.id == ids[position]:
                assert found.logprob == pytest.approx(place.logprob, abs=0.01)
                compared += 1
    assert compared


def test_the_token_that_ends_an_answer_is_scored(either: GGUFModel):
    chat = [{"role": "user", "content": "Reply with the word yes."}]
    found = deltas(either.chat(chat, replace(max_tokens=60, logprobs=1)))
    assert found[-1].finish_reason == "stop"
    last = tokens(found)[-1]
    assert (last.bytes, last.control) == (b"<|im_end|>", True)
    assert shown(tokens(found)).decode() == texts(found)[0]


@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_scores_of_the_prompt(shallow_either: GGUFModel, max_tokens: int):
    prompt = "One, two, three. Käse 🦀<|im_end|>\nyes"
    ids = shallow_either.tokenize(prompt)
    found = deltas(shallow_either.complete(prompt, replace(logprobs=2, prompt_logprobs=2, max_tokens=max_tokens)))
    scores = found[0].prompt
    assert [token.id for token in scores] == ids
    assert all(delta.prompt == () for delta in found[1:])
    assert (scores[0].logprob, scores[0].top) == (None, ())
    assert all(token.logprob <= 0 and len(token.top) == 2 for token in scores[1:])
    assert b"".join(token.bytes for token in scores) == prompt.encode()
    assert len(tokens(found)) == max_tokens


def test_scores_of_a_prompt_are_those_of_the_answer_that_it_ends_with(shallow_either: GGUFModel):
    answer = tokens(deltas(shallow_either.complete(PROMPT, replace(logprobs=3))))
    ids = [*shallow_either.tokenize(PROMPT), *(token.id for token in answer)]
    scores = deltas(shallow_either.complete(ids, replace(logprobs=3, prompt_logprobs=3, max_tokens=0)))[0].prompt
    for asked, made in zip(scores[-len(answer) :], answer, strict=True):
        assert asked.id == made.id
        assert asked.logprob == pytest.approx(made.logprob, abs=2e-2)


def test_known_scores_are_those_computed_anew(shallow_either: GGUFModel):
    if rounds(shallow_either):
        pytest.skip("the build rounds otherwise")
    params = replace(logprobs=1, prompt_logprobs=1, max_tokens=1)
    begun, other = "A cat sat on the mat and", "Some other text"
    deltas(shallow_either.complete(begun, params))
    known = deltas(shallow_either.complete(begun + " slept", params))[0].prompt
    for text in (other, other + " and", other + " or"):  # pushes the first out
        deltas(shallow_either.complete(text, params))
    anew = deltas(shallow_either.complete(begun + " slept", params))[0].prompt
    assert [(t.id, pytest.approx(t.logprob or 0, abs=2e-2)) for t in known] == [(t.id, t.logprob or 0) for t in anew]


def test_a_listener_that_leaves_while_a_prompt_is_scored_frees_the_slot(shallow_either: GGUFModel):
    async def leave():
        stream = shallow_either.complete([7, 8, 9] * 35, replace(logprobs=1, prompt_logprobs=1, n=4))
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        while shallow_either.engine.pool.idle < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), PATIENCE))


def test_what_llama_cpp_guesses_has_no_scores_and_is_refused(original_path: Path):
    model = GGUFModel(
        original_path, engine="llama.cpp", context_length=64, parallel=1, threads=1, speculate="ngram-mod"
    )
    try:
        with pytest.raises(InvalidRequest, match="SPECULATE=off"):
            deltas(model.complete(PROMPT, replace(logprobs=1)))
        found = deltas(model.complete(PROMPT, replace(logprobs=1, prompt_logprobs=1, max_tokens=1)))
        assert len(found[0].prompt) == found[0].prompt_tokens
        assert len(tokens(found)) == 1
    finally:
        model.close()
