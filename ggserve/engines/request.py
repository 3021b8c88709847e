"""A running request, shared by both engines: a worker thread produces, a task on the event loop listens."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from ggserve.errors import EngineClosed, EngineError, GenerationError
from ggserve.generation import Delta, SamplingParams
from ggserve.prompt_progress import PromptProgress

Item = TypeVar("Item")

BEAT = 1 / 30  # seconds; too short for a reader to notice
_MOST_UNREAD = 1024  # deltas, besides those in the connection's buffers; a slot stops for a client that does not read


class Channel(Generic[Item]):
    """A queue: any thread puts items, one task on the channel's event loop takes them in order.

    Waking the event loop costs more than everything else that is done with an item, so only the first item wakes it.
    After that, the task is woken at the first beat that finds items.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beats = _of_loops.setdefault(self._loop, _Beats())
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._begun = False

    def put(self, item: Item, *, at_once: bool = False) -> None:
        """Add an item, from any thread. It is taken within BEAT seconds, or immediately if `at_once`. Does nothing once
        the loop is closed, because nobody can be waiting."""
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
        """Wait for an item, and return all that are there."""
        while self._begun or not self._items:
            self._ready.clear()
            with self._beats.waking(self) if self._begun else nullcontext():
                await self._ready.wait()
            if self._items:
                break
        self._begun = True
        return [self._items.popleft() for _ in range(len(self._items))]

    def beat(self) -> None:
        """Wake the task if there are items."""
        if self._items:
            self._ready.set()


class _Beats:
    """One timer for all channels of an event loop."""

    def __init__(self) -> None:
        self._waiting: set[Channel[Any]] = set()
        self._runs = False

    @contextmanager
    def waking(self, channel: Channel[Any]) -> Iterator[None]:
        """Wake the channel's task, which waits in this block, at the first beat that finds items."""
        self._waiting.add(channel)
        if not self._runs:
            self._plan()
        try:
            yield
        finally:
            self._waiting.discard(channel)

    def _plan(self) -> None:
        self._runs = bool(self._waiting)
        if self._runs:
            # Timers fire up to a millisecond early. Counting from the nearest beat avoids waiting for one twice.
            loop = asyncio.get_running_loop()
            loop.call_at((round(loop.time() / BEAT) + 1) * BEAT, self._beat)

    def _beat(self) -> None:
        for channel in self._waiting:
            channel.beat()
        self._plan()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Beats] = WeakKeyDictionary()


class RunningRequest:
    """A request in progress with `n` answers to one prompt. `listen` runs on the event loop, everything else in a
    worker thread."""

    def __init__(self, params: SamplingParams) -> None:
        self._n = params.n
        self.params = params
        self.progress = params.progress or PromptProgress()  # of the prompt
        self.cancelled = False  # set by the listener; the worker checks it at each step
        self.end: Delta | EngineError | None = None  # sent when the slot is free for the next request
        self._deltas: Channel[Delta | EngineError] = Channel()

    def put(self, delta: Delta) -> None:
        """Send a delta, except the last one. Ends the request if nobody takes the deltas."""
        if len(self._deltas) >= _MOST_UNREAD and not self.cancelled:
            self.cancelled = True
            self.end = GenerationError(f"The client left {_MOST_UNREAD} pieces of the answer unread.")
        self._deltas.put(delta)

    def put_end(self) -> None:
        """Send the end: the last delta or an error. Without one, the request was cancelled; if anyone still listens,
        because the engine was closed."""
        self._deltas.put(self.end or EngineClosed(), at_once=True)

    async def listen(self) -> AsyncGenerator[Delta, None]:
        """Yield the deltas; those that arrive within a beat are joined. Closing the generator cancels the request."""
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
    """Yield the same text in as few deltas as possible."""
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
    """Return whether two deltas belong to one answer and can be joined without changing the order of reasoning, text
    and pieces of a tool call."""
    return first.finish_reason is None and not first.tool_calls and not (first.text and then.reasoning)
