"""The answers of one request: the one way from generators of deltas to answers, streamed or collected.

A writer of each dialect says how they look. What the dialects share is here: n answers to each of several prompts, the
best of them, and the tokens that they used.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ggserve.api.answer import Answer, Step
from ggserve.generation import Delta
from ggserve.prompt_progress import CacheMiss


class Piece(NamedTuple):
    """A delta, the answer that it went into, the steps that it makes there, and all answers."""

    answer: Answer
    delta: Delta
    steps: list[Step]
    answers: "Answers"


@dataclass
class Usage:
    """Tokens of a request. A prompt counts once, however many answers it gets."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, those that were in a KV cache before the request
    completion_tokens: int = 0
    accepted_tokens: int = 0  # of those that were guessed ahead of the model, the right ones
    rejected_tokens: int = 0
    cache_miss: CacheMiss | None = None  # of the prompts, the one that lost the most


class Answers:
    """`n` answers to each prompt, one stream of deltas for each prompt. `all` and `usage` tell how far they are."""

    def __init__(self, *streams: AsyncGenerator[Delta, None], n: int = 1, at_once: int = 1) -> None:
        """At most `at_once` of the streams run at the same time."""
        self.all = [Answer(index) for index in range(len(streams) * n)]
        self._streams = streams
        self._n = n
        self._at_once = at_once
        self._prompts: dict[int, Delta] = {}  # the first delta of each stream

    async def streamed(self) -> AsyncGenerator[Piece, None]:
        """Each delta as it comes."""
        async with aclosing(merged(self._streams, self._at_once)) as deltas:
            async for stream, delta in deltas:
                first = self._prompts.setdefault(stream, delta)
                answer = self.all[stream * self._n + delta.index]
                answer.prompt, answer.prompt_ids = first.prompt, first.prompt_ids
                yield Piece(answer, delta, answer.add(delta), self)

    def best(self, count: int) -> list[Answer]:
        """The `count` likeliest answers to each prompt, the likeliest first, with new indices."""
        kept: list[Answer] = []
        for start in range(0, len(self.all), self._n):
            of_prompt = self.all[start : start + self._n]
            kept += sorted(of_prompt, key=lambda answer: answer.likelihood, reverse=True)[:count]
        for index, answer in enumerate(kept):
            answer.index = index
        return kept

    @property
    def usage(self) -> Usage:
        """The tokens used so far, with those of answers that are not among the best."""
        firsts = self._prompts.values()
        return Usage(
            prompt_tokens=sum(first.prompt_tokens for first in firsts),
            cached_tokens=sum(first.cached_tokens for first in firsts),
            completion_tokens=sum(answer.last.completion_tokens for answer in self.all),
            accepted_tokens=sum(answer.last.accepted_tokens for answer in self.all),
            rejected_tokens=sum(answer.last.rejected_tokens for answer in self.all),
            cache_miss=max(
                filter(None, (first.cache_miss for first in firsts)), key=attrgetter("tokens"), default=None
            ),
        )


async def merged(
    streams: Sequence[AsyncGenerator[Delta, None]], at_once: int
) -> AsyncGenerator[tuple[int, Delta], None]:
    """The deltas of several streams as they come, with the index of each; at most `at_once` streams run."""
    if len(streams) == 1:  # needs no task of its own
        async with aclosing(streams[0]) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    items: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue()
    free = asyncio.Semaphore(at_once)

    async def pump(index: int, deltas: AsyncGenerator[Delta, None]) -> None:
        async with free, aclosing(deltas):
            try:
                async for delta in deltas:
                    items.put_nowait((index, delta))
                items.put_nowait(None)
            except Exception as error:
                items.put_nowait(error)

    tasks = [asyncio.ensure_future(pump(index, deltas)) for index, deltas in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
