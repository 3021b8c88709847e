"""The answers of one request: the one way from generators of deltas to indexed choices, streamed or collected.

How a choice looks is the dialects' business; what they share is here: n answers to each of several prompts, the best of
them, and what they used.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ggserve.generation import Delta, FinishReason, ScoredToken


@dataclass
class Call:
    """A tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """One answer, as far as it has come."""

    index: int
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)  # where asked for
    prompt: tuple[ScoredToken, ...] = ()  # the prompt's tokens, where asked for; the same for all of its answers
    finish_reason: FinishReason | None = None  # None: more comes
    stop_sequence: str | None = None
    completion_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    def add(self, delta: Delta) -> None:
        """Takes the next piece."""
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.tokens += delta.tokens
        for piece in delta.tool_calls:
            if piece.index == len(self.calls):
                self.calls.append(Call(piece.id or "", piece.name or ""))
            self.calls[piece.index].arguments += piece.arguments
        self.finish_reason = delta.finish_reason
        self.stop_sequence = delta.stop_sequence
        self.completion_tokens = delta.completion_tokens
        self.accepted_tokens, self.rejected_tokens = delta.accepted_tokens, delta.rejected_tokens

    @property
    def likelihood(self) -> float:
        """The mean log-probability of its tokens, by which the best of several is found."""
        logprobs = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0


@dataclass
class Usage:
    """Tokens of a request. A prompt counts once, however many answers it gets."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, those that were in a KV cache before the request
    completion_tokens: int = 0
    accepted_tokens: int = 0  # of those that were guessed ahead of the model, the right ones
    rejected_tokens: int = 0


class Answers:
    """`n` answers to each prompt, one stream of deltas for each prompt. `choices` and `usage` tell how far they are."""

    def __init__(self, streams: Sequence[AsyncGenerator[Delta, None]], *, n: int = 1, at_once: int = 1) -> None:
        """At most `at_once` of the streams run at the same time."""
        self.choices = [Choice(index) for index in range(len(streams) * n)]
        self._streams = streams
        self._n = n
        self._at_once = at_once
        self._prompts: dict[int, Delta] = {}  # the first delta of each stream

    async def streamed(self) -> AsyncGenerator[tuple[Choice, Delta], None]:
        """Each delta as it comes, and the choice that it went into."""
        async with aclosing(merged(self._streams, self._at_once)) as deltas:
            async for stream, delta in deltas:
                first = self._prompts.setdefault(stream, delta)
                choice = self.choices[stream * self._n + delta.index]
                choice.prompt = first.prompt
                choice.add(delta)
                yield choice, delta

    async def collected(self, best: int | None = None) -> list[Choice]:
        """All choices when they are complete; of each prompt's answers only the `best`, the likeliest first."""
        async with aclosing(self.streamed()) as pieces:
            async for _ in pieces:
                pass
        if best is None or best >= self._n:
            return self.choices
        kept: list[Choice] = []
        for start in range(0, len(self.choices), self._n):
            of_prompt = self.choices[start : start + self._n]
            kept += sorted(of_prompt, key=lambda choice: choice.likelihood, reverse=True)[:best]
        for index, choice in enumerate(kept):
            choice.index = index
        return kept

    @property
    def usage(self) -> Usage:
        """What the answers used so far, those that `best` leaves out included."""
        firsts = self._prompts.values()
        return Usage(
            prompt_tokens=sum(first.prompt_tokens for first in firsts),
            cached_tokens=sum(first.cached_tokens for first in firsts),
            completion_tokens=sum(choice.completion_tokens for choice in self.choices),
            accepted_tokens=sum(choice.accepted_tokens for choice in self.choices),
            rejected_tokens=sum(choice.rejected_tokens for choice in self.choices),
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
