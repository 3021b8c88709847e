"""The end of an answer, forbidden tokens, and samplers mean the same on both engines."""

import asyncio
import dataclasses

import numpy as np
import pytest

from ggserve.engines.llama_cpp.fields import sampling_fields
from ggserve.engines.sampling import Sampler
from ggserve.errors import InvalidRequest, InvalidToken
from ggserve.generation import LLAMA_CPP_SAMPLERS, Delta, Grammar, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer
from tests.llama_server import can

GREEDY = SamplingParams(max_tokens=16, temperature=0)
PROMPT = "The three primary colours are"
VOCABULARY = 49152
REPETITIVE = "one two three four. one two three five. one two three"


def replace(**changes) -> SamplingParams:
    return dataclasses.replace(GREEDY, **changes)


def ids_of(model: GGUFModel, prompt: str, params: SamplingParams) -> list[int]:
    async def collect() -> list[int]:
        scored = dataclasses.replace(params, logprobs=0)
        return [token.id async for delta in model.complete(prompt, scored) for token in delta.tokens]

    return asyncio.run(collect())


@pytest.mark.parametrize("shown", [False, True])
def test_a_stop_token_ends_an_answer(shallow_either: GGUFModel, shown: bool):
    whole = ids_of(shallow_either, PROMPT, GREEDY)
    stop = whole[5]
    place = whole.index(stop)
    params = replace(stop_token_ids=frozenset({stop, 7}), include_stop=shown)
    text, last = answer(shallow_either.complete(PROMPT, params))
    assert text == shallow_either.detokenize(whole[: place + shown])
    assert (last.finish_reason, last.stop_token, last.completion_tokens) == ("stop", stop, place + 1)


def test_a_stop_string_is_shown_where_asked_for(shallow_either: GGUFModel):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    stop = whole[10:14]
    text, last = answer(shallow_either.complete(PROMPT, replace(stop=(stop,), include_stop=True)))
    assert text == whole[: whole.index(stop) + 4]
    assert last.stop_sequence == stop


def test_min_tokens_come_although_the_model_would_end_the_answer(either: GGUFModel):
    chat = [{"role": "user", "content": "Reply with the word yes."}]
    _, ended = answer(either.chat(chat, replace(max_tokens=60)))
    assert ended.finish_reason == "stop"
    wanted = ended.completion_tokens + 5
    _, longer = answer(either.chat(chat, replace(max_tokens=wanted + 3, min_tokens=wanted)))
    assert wanted < longer.completion_tokens <= wanted + 3


def test_min_tokens_come_before_a_stop_string_ends_the_answer(shallow_either: GGUFModel):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    first = whole.strip()[0]
    text, last = answer(shallow_either.complete(PROMPT, replace(min_tokens=12, stop=(first,))))
    assert last.completion_tokens > 12
    assert first in text


def test_tokens_within_a_character_count_towards_max_tokens(shallow_either: GGUFModel):
    first = shallow_either.tokenize("\U00013000", add_special=False)[0]
    params = replace(allowed_token_ids=frozenset({first}), min_tokens=1, max_tokens=4)
    _, last = answer(shallow_either.complete(PROMPT, params))
    assert (last.completion_tokens, last.finish_reason) == (4, "length")


@pytest.mark.parametrize("field", ["bad_words", "banned_strings"])
def test_a_banned_text_never_comes_and_the_answer_goes_on(shallow_either: GGUFModel, field: str):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    words = whole.split()
    banned = (" ".join(words[1:3]), words[4])
    if field == "banned_strings":
        banned = tuple(word.upper() for word in banned)
    text, last = answer(shallow_either.complete(PROMPT, replace(**{field: banned})))
    assert not any(word.lower() in text.lower() for word in banned)
    assert (last.finish_reason, last.completion_tokens) == ("length", 16)
    if can(shallow_either, "logprobs_before_bias"):
        assert shallow_either.detokenize(ids_of(shallow_either, PROMPT, replace(**{field: banned}))) == text


def test_a_banned_text_leaves_the_rest_of_an_answer_alone(shallow_either: GGUFModel):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    assert answer(shallow_either.complete(PROMPT, replace(bad_words=("zebra", whole[-4:] + "x"))))[0] == whole


def test_banned_texts_and_grammars_are_refused_together(shallow_either: GGUFModel):
    for field in ("bad_words", "banned_strings"):
        with pytest.raises(InvalidRequest) as refusal:
            answer(shallow_either.complete(PROMPT, replace(grammar=Grammar("regex", "a+"), **{field: ("a",)})))
        assert refusal.value.field == field


def test_only_allowed_tokens_come(shallow_either: GGUFModel):
    allowed = frozenset(shallow_either.tokenize(" red green blue", add_special=False))
    params = replace(allowed_token_ids=allowed, repetition_penalty=1.3, top_n_sigma=1.0, temperature=0.9)
    if can(shallow_either, "logprobs_before_bias"):
        assert set(ids_of(shallow_either, PROMPT, params)) <= allowed
    text, _ = answer(shallow_either.complete(PROMPT, params))
    assert set(text.split()) <= {"red", "green", "blue"}
    for field in ("allowed_token_ids", "stop_token_ids"):
        with pytest.raises(InvalidToken) as refusal:
            answer(shallow_either.complete(PROMPT, replace(**{field: frozenset({49152})})))
        assert refusal.value.field == field


def test_the_end_of_a_prompt_is_kept(shallow_either: GGUFModel):
    short, last = answer(shallow_either.complete("Never mind all this. " + PROMPT, replace(truncate_prompt=4)))
    assert last.prompt_tokens == 4
    assert short == answer(shallow_either.complete(shallow_either.tokenize(PROMPT)[-4:], GREEDY))[0]


def test_control_tokens_are_shown_where_asked_for(shallow_either: GGUFModel):
    control = shallow_either.tokenize("<|im_start|>")[-1]
    params = replace(max_tokens=2, logit_bias={control: 100.0})
    assert answer(shallow_either.complete(PROMPT, params))[0] == ""
    shown = dataclasses.replace(params, skip_special=False)
    assert answer(shallow_either.complete(PROMPT, shown))[0] == "<|im_start|>" * 2


def test_the_prompt_s_ids_come_with_the_first_delta(shallow_either: GGUFModel):
    async def deltas() -> list[Delta]:
        return [delta async for delta in shallow_either.complete(PROMPT, replace(logprobs=0))]

    first, *others = asyncio.run(deltas())
    assert list(first.prompt_ids) == shallow_either.tokenize(PROMPT)
    assert not any(delta.prompt_ids for delta in others)


CASES = {
    "default": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "llama.cpp's order": {"temperature": 0.6, "top_p": 0.8, "samplers": LLAMA_CPP_SAMPLERS},
    "typical_p": {"temperature": 1, "typical_p": 0.7},
    "top_n_sigma": {"temperature": 1.5, "top_n_sigma": 1.0, "top_k": 0},
    "xtc": {"temperature": 1, "xtc_probability": 1.0, "xtc_threshold": 0.05},
    "min_p, min_keep": {"temperature": 1, "min_p": 0.9, "min_keep": 5},
    "dynamic temperature": {"temperature": 1.0, "dynatemp_range": 0.8, "dynatemp_exponent": 1.2},
    "penalties of the last tokens": {
        "temperature": 1,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repeat_last_n": 7,
    },
    "dry": {"temperature": 1, "dry_multiplier": 0.8},
    "dry, no breakers": {"temperature": 1, "dry_multiplier": 0.8, "dry_sequence_breakers": (), "dry_allowed_length": 1},
    "bias, then penalties": {"temperature": 1, "logit_bias": {30: 4.0}, "repetition_penalty": 1.5},
}


def told(model: GGUFModel, fields: dict) -> list[dict]:
    """The likeliest tokens after REPETITIVE as llama.cpp tells them."""
    chunks: list[dict] = []
    body = {"prompt": model.tokenize(REPETITIVE), "n_predict": 1, "seed": 1, **fields}
    model.engine._transport.complete(body, lambda chunk: chunks.append(chunk) or False)
    entry = chunks[-1]["choices"][0]["logprobs"]["content"][0]
    return entry.get("top_logprobs") or entry["top_probs"]


@pytest.fixture(scope="module")
def logits(llama_cpp_model: GGUFModel, ctransformers_model: GGUFModel) -> np.ndarray:
    """Those of llama.cpp after REPETITIVE: float32[VOCABULARY]."""
    found = np.full(VOCABULARY, -100.0, np.float32)
    for entry in told(llama_cpp_model, {"n_probs": VOCABULARY, "temperature": 0}):
        found[entry["id"]] = entry["logprob"]
    context = ctransformers_model.engine._contexts[0]
    if not context.opened:
        context.open()
    prompt = llama_cpp_model.tokenize(REPETITIVE)
    context.eval(prompt[context.reuse(prompt) :], 1)
    own = context.logits().astype(np.float64)
    return found + np.float32(np.log(np.exp(own - own.max()).sum()) + own.max())  # penalties are not blind to the sum


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_samples_from_the_same_distribution(
    llama_cpp_model: GGUFModel, ctransformers_model: GGUFModel, logits: np.ndarray, name: str
):
    changes = {"top_k": 40, "top_p": 1.0, **CASES[name]}
    params = SamplingParams(max_tokens=1, seed=1, **changes)
    fields = {**sampling_fields(params, 128, VOCABULARY), "n_probs": 50, "post_sampling_probs": True}
    theirs = {entry["id"]: entry["prob"] for entry in told(llama_cpp_model, fields)}
    breakers = ctransformers_model.engine._breakers(params.dry_sequence_breakers)
    sampler = Sampler(params, llama_cpp_model.tokenize(REPETITIVE), (), breakers)
    ids, probabilities = sampler.distribution(logits)
    ours = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    assert theirs
    for token, probability in theirs.items():
        assert ours.get(token, 0.0) == pytest.approx(probability, rel=0.03, abs=2e-4), (name, token)
