"""Each sampler against its definition, and forbidden tokens."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.engines.history import breakers
from ggserve.engines.sampling import Sampler
from ggserve.errors import GenerationError
from ggserve.generation import LLAMA_CPP_SAMPLERS, SAMPLERS, SamplingParams
from tests.engines.reference_sampler import Reference

PLAIN = SamplingParams(temperature=1, top_k=0, top_p=1, seed=1)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4]


def replace(**changes) -> SamplingParams:
    return dataclasses.replace(PLAIN, **changes)


def random_logits(seed: int, size: int = 400) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=size)).astype(np.float32)


def assert_equal(sampler: Sampler, reference: Reference, logits: np.ndarray) -> None:
    ids, found = sampler.distribution(logits)
    expected = reference.probabilities()
    got = dict(zip(ids.tolist(), found.tolist(), strict=True))
    for token in {*got, *expected}:  # at a threshold, the last bits of a float32 decide
        assert got.get(token, 0.0) == pytest.approx(expected.get(token, 0.0), rel=2e-3, abs=2e-5)


CASES = {
    "typ_p": ({"typical_p": 0.6}, lambda r: r.typ_p(0.6)),
    "typ_p, min_keep": ({"typical_p": 0.01, "min_keep": 7}, lambda r: r.typ_p(0.01, 7)),
    "top_n_sigma": ({"top_n_sigma": 1.3}, lambda r: r.top_n_sigma(1.3)),
    "xtc": ({"xtc_probability": 1.0, "xtc_threshold": 0.02}, lambda r: r.xtc(0.02)),
    "xtc of min_keep": (
        {"top_k": 8, "xtc_probability": 1.0, "xtc_threshold": 0.01, "min_keep": 7},
        lambda r: (r.top_k(8), r.xtc(0.01, 7)),
    ),
    "dynamic temperature": (
        {"temperature": 1.2, "dynatemp_range": 0.7, "dynatemp_exponent": 1.5},
        lambda r: r.temperature(1.2, 0.7, 1.5),
    ),
    "dynamic temperature of a few": (
        {"top_k": 9, "temperature": 0.9, "dynatemp_range": 0.9},
        lambda r: (r.top_k(9), r.temperature(0.9, 0.9)),
    ),
    "top_p, min_keep": ({"top_p": 0.1, "min_keep": 5}, lambda r: r.top_p(0.1, 5)),
    "min_p": ({"min_p": 0.1}, lambda r: r.min_p(0.1)),
    "min_p, min_keep": ({"min_p": 0.9, "min_keep": 6}, lambda r: r.min_p(0.9, 6)),
    "mirostat 1": ({"mirostat": 1, "mirostat_tau": 2.0}, lambda r: r.mirostat_1(4.0, 400)),
    "mirostat 2": (
        {"mirostat": 2, "mirostat_tau": 1.5, "temperature": 1.4},
        lambda r: (r.temperature(1.4), r.mirostat_2(3.0)),
    ),
    "penalties": (
        {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4},
        lambda r: r.penalties(PROMPT, 1.3, 0.7, 0.4, counted=[]),
    ),
    "penalties of the last tokens": (
        {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4, "repeat_last_n": 5},
        lambda r: r.penalties(PROMPT[-5:], 1.3, 0.7, 0.4),
    ),
    "penalties of all tokens": (
        {"frequency_penalty": 0.4, "repeat_last_n": -1},
        lambda r: r.penalties(PROMPT, 1.0, 0.0, 0.4),
    ),
    "bias before penalties": (
        {"logit_bias": {1: 5.0, 4: -2.0}, "repetition_penalty": 1.5},
        lambda r: (r.bias({1: 5.0, 4: -2.0}), r.penalties(PROMPT, 1.5, 0.0, 0.0)),
    ),
    "dry": ({"dry_multiplier": 0.8, "dry_allowed_length": 2}, lambda r: r.dry(PROMPT, 0.8, 1.75, 2, ())),
    "dry of single tokens": (
        {"dry_multiplier": 0.8, "dry_allowed_length": 0},
        lambda r: r.dry(PROMPT, 0.8, 1.75, 0, ()),
    ),
    "dry of the last tokens": (
        {"dry_multiplier": 2.0, "dry_base": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 10},
        lambda r: r.dry(PROMPT[-10:], 2.0, 2.0, 1, ()),
    ),
    "all, in our order": (
        {"top_n_sigma": 2.5, "top_k": 30, "temperature": 0.7, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02},
        lambda r: (r.top_n_sigma(2.5), r.top_k(30), r.temperature(0.7), r.typ_p(0.9), r.top_p(0.9), r.min_p(0.02)),
    ),
    "all, in llama.cpp's order": (
        {
            "samplers": LLAMA_CPP_SAMPLERS,
            "top_k": 30,
            "temperature": 0.7,
            "typical_p": 0.9,
            "top_p": 0.9,
            "min_p": 0.02,
        },
        lambda r: (r.top_k(30), r.typ_p(0.9), r.top_p(0.9), r.min_p(0.02), r.temperature(0.7)),
    ),
    "an order of one's own": (
        {"samplers": ("min_p", "temperature", "penalties"), "top_k": 1, "min_p": 0.01, "frequency_penalty": 0.5}
        | {"repeat_last_n": -1, "temperature": 2.0},
        lambda r: (r.min_p(0.01), r.temperature(2.0), r.penalties(PROMPT, 1.0, 0.0, 0.5)),
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_a_sampler_is_what_it_is_defined_to_be(name: str, seed: int):
    changes, expected = CASES[name]
    logits = random_logits(seed)
    reference = Reference(logits)
    expected(reference)
    assert_equal(Sampler(replace(**changes), PROMPT, ()), reference, logits)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 4), st.sets(st.integers(0, 3), max_size=2))
def test_dry_finds_every_repetition(tokens, allowed, heads):
    params = replace(dry_multiplier=0.7, dry_allowed_length=allowed)
    logits = random_logits(1, 6)
    reference = Reference(logits)
    reference.dry(tokens, 0.7, 1.75, allowed, heads)
    assert_equal(Sampler(params, tokens, (), {head: [()] for head in heads}), reference, logits)


def test_a_breaker_of_several_tokens_breaks():
    pieces = [b"a", b"b", b"x<", b"/i", b">", b"<"]
    spelled = {"/i>": [3, 4], "i>": [], ">": [4]}
    found = breakers(["</i>"], pieces, lambda text: spelled[text])
    assert found == {2: [(3, 4)], 5: [(3, 4)]}
    for broken, last in ((True, 3), (False, 4)):
        history = [0, 1, 2, last, 4, 0, 0, 1, 2, last, 4]
        sampler = Sampler(replace(dry_multiplier=5.0), history, (), found)
        ids, probabilities = sampler.distribution(np.zeros(6, np.float32))
        assert (0 in ids.tolist() and probabilities[ids == 0][0] > 0.1) == broken


@pytest.mark.parametrize("last_n", [None, -1, 0, 3, 100])
def test_penalties_follow_the_answer(last_n):
    params = replace(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.6, repeat_last_n=last_n)
    sampler = Sampler(params, PROMPT, ())
    logits = random_logits(5, 12)
    answer = []
    for _ in range(30):
        window = [*PROMPT, *answer]
        reference = Reference(logits)
        if last_n is None:
            reference.penalties(window, 1.2, 0.3, 0.6, counted=answer)
        elif last_n:
            reference.penalties(window if last_n < 0 else window[-last_n:], 1.2, 0.3, 0.6)
        assert_equal(sampler, reference, logits)
        answer.append(sampler.sample(logits))


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_nears_its_surprise(version):
    params = replace(mirostat=version, mirostat_tau=3.0, mirostat_eta=0.2)
    sampler = Sampler(params, (), ())
    logits = random_logits(2, 250)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    bound, surprises = 6.0, []
    for _ in range(600):
        reference = Reference(logits)
        (reference.mirostat_1(bound, 250) if version == 1 else reference.mirostat_2(bound))
        expected = reference.probabilities()
        assert len(sampler.distribution(logits)[0]) == len(expected)
        surprise = -np.log2(expected[sampler.sample(logits)])
        bound -= 0.2 * (surprise - 3.0)
        surprises.append(surprise)
    assert np.mean(surprises[200:]) == pytest.approx(3.0, abs=0.1)


def test_xtc_comes_as_often_as_its_probability():
    sampler = Sampler(replace(xtc_probability=0.3, xtc_threshold=0.05), (), ())
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    cut = [len(sampler.distribution(logits)[0]) == 1 for _ in range(2000)]
    assert np.mean(cut) == pytest.approx(0.3, abs=0.04)


def test_a_greedy_choice_is_the_likeliest_after_what_comes_before_the_temperature():
    logits = np.array([3.0, 2.5, 0.0, -5.0], np.float32)
    xtc = {"temperature": 0, "xtc_probability": 1.0, "xtc_threshold": 0.1}
    assert Sampler(replace(**xtc, samplers=SAMPLERS), (), ()).sample(logits) == 0
    assert Sampler(replace(**xtc, samplers=LLAMA_CPP_SAMPLERS), (), ()).sample(logits) == 1
    assert Sampler(replace(temperature=0, frequency_penalty=1.0, repeat_last_n=-1), [0], ()).sample(logits) == 1
    assert {Sampler(replace(temperature=0, mirostat=2, seed=seed), (), ()).sample(logits) for seed in range(9)} == {0}


def test_only_allowed_tokens_come_and_no_forbidden_one():
    logits = random_logits(3, 50)
    sampler = Sampler(replace(allowed_token_ids=frozenset({4, 7, 9}), top_k=40), (), ())
    assert set(sampler.distribution(logits)[0].tolist()) == {4, 7, 9}
    assert set(sampler.distribution(logits, forbidden=[7])[0].tolist()) == {4, 9}
    with pytest.raises(GenerationError, match="bans all"):
        sampler.distribution(logits, forbidden=[4, 7, 9])


def test_no_end_comes_before_min_tokens():
    logits = np.array([5.0, 4.0, 0.0], np.float32)
    params = replace(temperature=0, min_tokens=2, stop_token_ids=frozenset({1}))
    sampler = Sampler(params, (), [0])
    assert [sampler.sample(logits) for _ in range(3)] == [2, 2, 0]


@pytest.mark.parametrize("changes", [{"frequency_penalty": 0.5}, {"mirostat": 2}, {"dry_multiplier": 2.0}], ids=str)
def test_a_rewound_sampler_is_as_if_nothing_had_come(changes):
    logits = random_logits(4, 12)
    sampler, other = (Sampler(replace(**changes), PROMPT, ()) for _ in range(2))
    for token in (5, 9):
        sampler.count(token), other.count(token)
    for _ in range(4):
        sampler.sample(logits)
    sampler.rewind(4)
    for mine, its in zip(sampler.distribution(logits), other.distribution(logits), strict=True):
        assert np.allclose(mine, its)
