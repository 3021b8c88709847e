"""Streams of deltas become indexed choices: in parallel, several per prompt, and the best of them."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ggserve.api.answers import Answers, merged
from ggserve.errors import GenerationError
from ggserve.generation import Delta
from tests.api.streams import Stream, delta, score


def test_merged_keeps_the_order_within_each_answer_and_runs_no_more_than_it_may() -> None:
    streams = [Stream(*(f"{index}{piece}" for piece in "abc")) for index in range(5)]
    running: list[int] = []

    async def collect() -> dict[int, str]:
        texts: dict[int, str] = {}
        async for index, piece in merged([stream.deltas() for stream in streams], at_once=2):
            running.append(sum(stream.begun and not stream.closed for stream in streams))
            texts[index] = texts.get(index, "") + piece.text
        return texts

    assert asyncio.run(collect()) == {index: f"{index}a{index}b{index}c" for index in range(5)}
    assert max(running) <= 2


def test_merged_ends_all_with_the_first_error() -> None:
    streams = [Stream(*"abcdef"), Stream("a", error=GenerationError("no more"))]

    async def collect() -> None:
        async for _ in merged([stream.deltas() for stream in streams], at_once=2):
            pass

    with pytest.raises(GenerationError, match="no more"):
        asyncio.run(collect())
    assert all(stream.closed for stream in streams)


async def of(*deltas: Delta) -> AsyncGenerator[Delta, None]:
    for item in deltas:
        yield item


def two_answers(prompt: str) -> AsyncGenerator[Delta, None]:
    """Two answers whose deltas alternate; the second is likelier."""
    return of(
        delta("a", tokens=(score("a", -3.0),), prompt=(score(prompt),)),
        delta("x", index=1, tokens=(score("x", -1.0),)),
        delta("b", "stop", tokens=(score("b", -1.0),)),
        delta("yz", "length", index=1, tokens=(score("y", -1.0), score("z", -1.0))),
    )


async def complete(answers: Answers) -> None:
    async for _ in answers.streamed():
        pass


def test_each_delta_goes_into_its_choice_by_prompt_and_answer() -> None:
    answers = Answers(two_answers("p"), two_answers("q"), n=2, at_once=1)

    async def collect() -> list[tuple[int, str]]:
        return [(piece.answer.index, piece.delta.text) async for piece in answers.streamed()]

    assert asyncio.run(collect()) == [(0, "a"), (1, "x"), (0, "b"), (1, "yz"), (2, "a"), (3, "x"), (2, "b"), (3, "yz")]
    assert [choice.text for choice in answers.all] == ["ab", "xyz", "ab", "xyz"]
    assert [choice.last.finish_reason for choice in answers.all] == ["stop", "length"] * 2
    assert [choice.prompt[0].bytes for choice in answers.all] == [b"p", b"p", b"q", b"q"]


def test_a_prompt_counts_once_and_every_answer_counts() -> None:
    answers = Answers(two_answers("p"), two_answers("q"), n=2, at_once=2)
    asyncio.run(complete(answers))
    assert (answers.usage.prompt_tokens, answers.usage.cached_tokens) == (10, 4)
    assert answers.usage.completion_tokens == sum(choice.last.completion_tokens for choice in answers.all) == 6


def test_the_best_are_the_likeliest_of_each_prompt_and_counted_anew() -> None:
    answers = Answers(two_answers("p"), two_answers("q"), n=2)
    asyncio.run(complete(answers))
    best = answers.best(1)
    assert [(choice.index, choice.text) for choice in best] == [(0, "xyz"), (1, "xyz")]
