"""A running request, as both engines share it: a worker thread produces, a task of the event loop listens."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from engine.contract import Delta
from engine.errors import EngineClosed, EngineError, GenerationError

Item = TypeVar("Item")

_MOST_UNREAD = 1024  # deltas, beside what the connection holds: no slot goes on for a client that does not read


class Channel(Generic[Item]):
    """Items put by any thread, taken in order by one task of the loop that made the channel."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._ready = asyncio.Event()

    def put(self, item: Item) -> None:
        """Adds an item; from any thread. Does nothing once the loop is closed, since nobody can be waiting."""
        self._items.append(item)
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def __len__(self) -> int:
        return len(self._items)

    async def get(self) -> Item:
        """The next item; waits for one."""
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()


class RunningRequest:
    """Answers in the making, `n` to one prompt: `listen` runs on the event loop, everything else in a worker thread."""

    def __init__(self, n: int = 1) -> None:
        self._n = n
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
        self._deltas.put(self.end or EngineClosed())

    async def listen(self) -> AsyncGenerator[Delta, None]:
        """The deltas as they come. Closing the generator cancels the request."""
        ended = 0
        try:
            while ended < self._n:
                delta = await self._deltas.get()
                if isinstance(delta, EngineError):
                    raise delta
                yield delta
                ended += delta.finish_reason is not None
        finally:
            self.cancelled = True
