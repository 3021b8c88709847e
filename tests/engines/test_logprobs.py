"""Scores from logits, those of shown text, and those of known prompts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.engines.logprobs import PromptScores, Scorer, ShownTokens, likeliest
from ggserve.generation import ScoredToken

PIECES = [b"<%d>" % token for token in range(300)]
PIECES[7] = b""
SCORER = Scorer(PIECES, lambda token: b"<|end|>")


def scored(*ids: int) -> list[ScoredToken]:
    return [ScoredToken(token, b"x", -1.0) for token in ids]


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_scores_are_the_logarithm_of_the_softmax(spread: float):
    logits = np.random.default_rng(1).normal(0, spread, 300).astype(np.float32)
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= math.log(np.exp(exact).sum())
    found = SCORER.score(logits, 11, 20)
    assert found.logprob == pytest.approx(exact[11], abs=1e-4)
    assert [token.id for token in found.top] == np.argsort(-exact, kind="stable")[:20].tolist()
    assert [token.logprob for token in found.top] == pytest.approx(np.sort(exact)[::-1][:20].tolist(), abs=1e-4)


def test_logits_stay_as_they_are_and_what_cannot_be_is_still_a_number():
    logits = np.full(300, -np.inf, np.float32)
    logits[3] = 1.0
    before = logits.copy()
    found = SCORER.score(logits, 7, 2)
    assert np.array_equal(logits, before)
    assert (found.logprob, found.bytes, found.control) == (-9999.0, b"<|end|>", True)
    assert (found.top[0].id, found.top[0].logprob) == (3, 0.0)


def test_equal_logits_come_by_id():
    assert likeliest(np.zeros(50, np.float32), 0.0, 3) == [0, 1, 2]
    assert likeliest(np.zeros(50, np.float32), 0.0, 0) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_shown_tokens_keep_their_order_and_none_begins_in_text_that_is_not_shown(steps: list[tuple[int, int]]):
    tokens, made, shown, taken = ShownTokens(), [0], 0, []
    for token, (characters, more) in enumerate(steps):
        tokens.add(scored(token)[0], characters)
        made.append(made[-1] + characters)
        more = min(more, made[-1] - shown)
        shown += more
        taken += [one.id for one in tokens.take(more)]
        assert taken == [index for index in range(token + 1) if made[index] < shown]
    assert [*taken, *(one.id for one in tokens.take_all())] == list(range(len(steps)))


def test_the_known_beginning_of_a_prompt():
    memory = PromptScores()
    memory.keep(scored(1, 2, 3, 4), top=1)
    memory.keep(scored(1, 2, 9), top=1)
    assert [token.id for token in memory.known([1, 2, 3, 5, 6], top=1)] == [1, 2, 3]
    assert [token.id for token in memory.known([1, 2], top=1)] == [1, 2]
    assert memory.known([2, 3], top=1) == []
    assert memory.known([1, 2, 3], top=5) == []
    memory.keep(scored(8), top=1)
    assert [token.id for token in memory.known([1, 2, 3], top=1)] == [1, 2]


def test_what_is_known_can_be_gone_on_from():
    memory = PromptScores()
    memory.keep(scored(1, 2), top=0)
    memory.known([1, 2, 3], top=0).append(scored(3)[0])
    assert len(memory.known([1, 2, 3], top=0)) == 2
