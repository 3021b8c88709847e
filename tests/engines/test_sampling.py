import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.engines.sampling import Sampler
from ggserve.errors import GenerationError
from ggserve.generation import SamplingParams

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 0.5], dtype=np.float32)


def draws(params: SamplingParams, logits=LOGITS, count: int = 400, prompt=(), end_ids=()) -> list[int]:
    sampler = Sampler(params, prompt, end_ids)
    return [sampler.sample(logits) for _ in range(count)]


def frequencies(params: SamplingParams, count: int = 20_000) -> np.ndarray:
    return np.bincount(draws(params, count=count), minlength=len(LOGITS)) / count


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def test_temperature_zero_is_the_most_likely_token():
    assert set(draws(SamplingParams(temperature=0))) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    params = SamplingParams(temperature=temperature, top_k=0, top_p=1, seed=1)
    assert frequencies(params) == pytest.approx(softmax(LOGITS / temperature), abs=0.015)


def test_top_k_keeps_the_k_most_likely():
    assert set(draws(SamplingParams(temperature=2, top_k=2, top_p=1, seed=1))) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probabilities = softmax(LOGITS)  # 0.61 0.22 0.08 ... for tokens 1, 2, 0
    only_first = SamplingParams(temperature=1, top_k=0, top_p=float(probabilities[1]) - 0.01, seed=1)
    first_two = SamplingParams(temperature=1, top_k=0, top_p=float(probabilities[1]) + 0.01, seed=1)
    assert set(draws(only_first)) == {1}
    assert set(draws(first_two)) == {1, 2}


def test_top_p_zero_is_greedy():
    assert set(draws(SamplingParams(temperature=1, top_p=0, seed=1))) == {1}


def test_min_p_is_relative_to_the_most_likely():
    ratio = float(np.exp(LOGITS[2] - LOGITS[1]))
    assert set(draws(SamplingParams(temperature=1, top_k=0, top_p=1, min_p=ratio * 0.99, seed=1))) == {1, 2}
    assert set(draws(SamplingParams(temperature=1, top_k=0, top_p=1, min_p=ratio * 1.01, seed=1))) == {1}


def test_the_seed_repeats():
    params = SamplingParams(temperature=1.5, top_k=0, seed=7)
    assert draws(params) == draws(params)
    assert draws(params) != draws(SamplingParams(temperature=1.5, top_k=0, seed=8))


def test_without_a_seed_answers_differ():
    params = SamplingParams(temperature=2, top_k=0, top_p=1)
    assert draws(params) != draws(params)


def test_repetition_penalty_counts_prompt_and_answer():
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    # 3.0 / 2 < 2.0: token 2 wins at once if the prompt has token 1, else after token 1 was drawn.
    assert draws(params, prompt=[1], count=1) == [2]
    assert draws(params, count=2) == [1, 2]


def test_repetition_penalty_pushes_negative_logits_down():
    logits = np.array([-1.0, -1.5], dtype=np.float32)
    assert draws(SamplingParams(temperature=0, repetition_penalty=2.0), logits, 1, prompt=[0]) == [1]


def test_presence_and_frequency_penalties_count_the_answer_only():
    presence = SamplingParams(temperature=0, presence_penalty=1.1)
    assert draws(presence, prompt=[1], count=3) == [1, 2, 1]
    frequency = SamplingParams(temperature=0, frequency_penalty=0.6)
    assert draws(frequency, count=4) == [1, 1, 2, 1]


def test_logit_bias_bans_and_forces():
    assert draws(SamplingParams(temperature=0, logit_bias={1: -100.0}), count=1) == [2]
    assert draws(SamplingParams(temperature=0, logit_bias={3: 100.0}), count=1) == [3]


def test_ignore_eos_never_draws_an_end_token():
    params = SamplingParams(temperature=2, top_k=0, top_p=1, seed=1, ignore_eos=True)
    assert 1 not in draws(params, end_ids=[1])


def test_the_logits_stay_as_they_are():
    before = LOGITS.copy()
    draws(SamplingParams(repetition_penalty=1.5, logit_bias={0: 5.0}, ignore_eos=True), end_ids=[1])
    assert (before == LOGITS).all()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_logits_that_are_not_numbers_are_an_error(temperature):
    with pytest.raises(GenerationError):
        draws(SamplingParams(temperature=temperature), np.full(5, np.nan, dtype=np.float32))


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=300),
    st.floats(0, 2),
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_parameters_give_a_token_of_the_vocabulary(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    array = np.array(logits, dtype=np.float32)
    token = Sampler(params, (), ()).sample(array)
    assert 0 <= token < len(logits)
    if top_k == 1:
        assert array[token] == array.max()
