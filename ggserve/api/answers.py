"""The answers of one request: the only path from generators of deltas to answers, streamed or collected.

Each dialect's writer formats them. This module has what the dialects share: n answers to each of several prompts,
`best_of`, and token usage.
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
    """A delta, its answer, the changes that it makes there, and all answers."""

    answer: Answer
    delta: Delta
    steps: list[Step]
    answers: "Answers"


@dataclass
class Usage:
    """The tokens of a request. A prompt counts once, however many answers it gets."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that were already in a KV cache
    completion_tokens: int = 0
    accepted_tokens: int = 0  # draft tokens of speculative decoding that became part of an answer
    rejected_tokens: int = 0
    cache_miss: CacheMiss | None = None  # of the prompts, the one that lost the most


class Answers:
    """`n` answers to each prompt, from one stream of deltas per prompt. `all` and `usage` show the progress."""

    def __init__(self, *streams: AsyncGenerator[Delta, None], n: int = 1, at_once: int = 1) -> None:
        """Create the answers. At most `at_once` of the streams run in parallel."""
        self.all = [Answer(index) for index in range(len(streams) * n)]
        self._streams = streams
        self._n = n
        self._at_once = at_once
        self._prompts: dict[int, Delta] = {}  # the first delta of each stream, by index

    async def streamed(self) -> AsyncGenerator[Piece, None]:
        """Yield each delta as it arrives."""
        async with aclosing(merged(self._streams, self._at_once)) as deltas:
            async for stream, delta in deltas:
                first = self._prompts.setdefault(stream, delta)
                answer = self.all[stream * self._n + delta.index]
                answer.prompt, answer.prompt_ids = first.prompt, first.prompt_ids
                yield Piece(answer, delta, answer.add(delta), self)

    def best(self, count: int) -> list[Answer]:
        """Return the `count` most likely answers to each prompt, most likely first, with new indices."""
        kept: list[Answer] = []
        for start in range(0, len(self.all), self._n):
            of_prompt = self.all[start : start + self._n]
            kept += sorted(of_prompt, key=lambda answer: answer.likelihood, reverse=True)[:count]
        for index, answer in enumerate(kept):
            answer.index = index
        return kept

    @property
    def usage(self) -> Usage:
        """The tokens used so far, including answers that `best` drops."""
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
    """Yield the deltas of several streams as they arrive, each with its stream's index. At most `at_once` streams run
    in parallel."""
    if len(streams) == 1:  # needs no task
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
