"""A running request, as both engines share it: a worker thread produces, a task of the event loop listens."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from ggserve.errors import EngineClosed, EngineError, GenerationError
from ggserve.generation import Delta, SamplingParams
from ggserve.prompt_progress import PromptProgress

Item = TypeVar("Item")

BEAT = 1 / 30  # seconds; a reader sees no difference
_MOST_UNREAD = 1024  # deltas, beside what the connection holds: no slot goes on for a client that does not read


class Channel(Generic[Item]):
    """Items put by any thread, taken in order by one task of the loop that made the channel.

    To wake the loop costs more than all else that is done with an item, so only the first does it; after that the task
    looks at each beat, and all such tasks at the same beats.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._begun = False

    def put(self, item: Item, *, at_once: bool = False) -> None:
        """Adds an item; from any thread. It is taken within BEAT seconds, or `at_once`. Does nothing once the loop is
        closed, since nobody can be waiting."""
        self._items.append(item)
        if self._begun and not at_once:
            return
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def __len__(self) -> int:
        return len(self._items)

    async def take(self) -> list[Item]:
        """All items that are there; waits for one."""
        if self._begun:
            await self._beat()
        while not self._items:
            await self._beat()
        self._begun = True
        return [self._items.popleft() for _ in range(len(self._items))]

    async def _beat(self) -> None:
        self._ready.clear()
        if self._begun:
            # Timers come up to a millisecond early: counted from the nearest beat, no beat is waited for twice.
            beat = round(self._loop.time() / BEAT) + 1
            timer = self._loop.call_at(beat * BEAT, self._ready.set)
            await self._ready.wait()
            timer.cancel()
        elif not self._items:
            await self._ready.wait()


class RunningRequest:
    """Answers in the making, `n` to one prompt: `listen` runs on the event loop, everything else in a worker thread."""

    def __init__(self, params: SamplingParams) -> None:
        self._n = params.n
        self.params = params
        self.progress = params.progress or PromptProgress()  # of the prompt
        self.cancelled = False  # set by the listener; the worker looks at each step
        self.end: Delta | EngineError | None = None  # sent once the slot is free for the next request
        self._deltas: Channel[Delta | EngineError] = Channel()

    def put(self, delta: Delta) -> None:
        """Sends a delta, but for the last of all. Ends the request where nobody takes them."""
        if len(self._deltas) >= _MOST_UNREAD and not self.cancelled:
            self.cancelled = True
            self.end = GenerationError(f"The client left {_MOST_UNREAD} pieces of the answer unread.")
        self._deltas.put(delta)

    def put_end(self) -> None:
        """Sends the end: the last delta or an error. Without one the request was cancelled, by its engine's closing
        if anyone still listens."""
        self._deltas.put(self.end or EngineClosed(), at_once=True)

    async def listen(self) -> AsyncGenerator[Delta, None]:
        """The deltas as they come, those that come within a beat as one. Closing the generator cancels the request."""
        ended = 0
        try:
            while ended < self._n:
                for delta in _joined(await self._deltas.take()):
                    if isinstance(delta, EngineError):
                        raise delta
                    yield delta
                    ended += delta.finish_reason is not None
        finally:
            self.cancelled = True


def _joined(deltas: Sequence[Delta | EngineError]) -> Iterator[Delta | EngineError]:
    """The same text in as few deltas as can say it."""
    last, *others = deltas
    for delta in others:
        if isinstance(last, Delta) and isinstance(delta, Delta) and _can_join(last, delta):
            last = replace(
                delta,
                text=last.text + delta.text,
                reasoning=last.reasoning + delta.reasoning,
                tool_calls=last.tool_calls + delta.tool_calls,
                tokens=last.tokens + delta.tokens,
                prompt=last.prompt + delta.prompt,
                prompt_ids=last.prompt_ids + delta.prompt_ids,
            )
        else:
            yield last
            last = delta
    yield last


def _can_join(first: Delta, then: Delta) -> bool:
    """Whether they belong to one answer, and one delta can keep their order: thoughts, text, a piece of a call."""
    return first.finish_reason is None and not first.tool_calls and not (first.text and then.reasoning)
