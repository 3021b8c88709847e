"""The scheduler: the slots that hold the contexts, and the queue of requests that wait for one."""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from ggserve.errors import EngineClosed, QueueFull

MIN_SIMILARITY = (
    0.5  # a slot is chosen for its prefix if it holds at least this fraction of the prompt, on every engine
)


class Slot(Protocol):
    """Runs one request at a time, and remembers the tokens in its KV cache for the next."""

    @property
    def opened(self) -> bool:
        """True if it already uses memory."""
        ...

    @property
    def tokens(self) -> Sequence[int]: ...


AnySlot = TypeVar("AnySlot", bound=Slot)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Pool(Generic[AnySlot]):
    """Gives slots to requests, first come, first served. Acquire on the event loop; release from any thread."""

    def __init__(self, slots: Sequence[AnySlot], queue_size: int) -> None:
        self.capacity = len(slots) + queue_size
        self._idle = list(slots)  # least recently used first
        self._queue_size = queue_size
        self._queue: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[AnySlot]]] = deque()
        self._closed = False
        self._lock = threading.Lock()

    @property
    def idle(self) -> int:
        """The number of slots without a request."""
        return len(self._idle)

    @property
    def queued(self) -> int:
        """The number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """True if the next request would be turned away."""
        return not self._idle and len(self._queue) >= self._queue_size

    async def acquire(self, prompt: Sequence[int], *, continues: bool = False) -> AnySlot:
        """Wait for a slot for `prompt` and return it. Cancelling leaves the queue. A request that `continues` an
        earlier answer goes to the front of the queue.

        Raises QueueFull if too many requests are waiting, and EngineClosed if the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise EngineClosed
            if self._idle:
                slot = self._choose(prompt)
                self._idle.remove(slot)
                return slot
            if len(self._queue) >= self._queue_size and not continues:
                raise QueueFull(len(self._queue))
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[AnySlot] = loop.create_future()
            (self._queue.appendleft if continues else self._queue.append)((loop, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            with self._lock, suppress(ValueError):
                self._queue.remove((loop, turn))
            if turn.done() and not turn.cancelled():
                self.release(turn.result())
            raise

    async def acquire_some(self, most: int) -> list[AnySlot]:
        """Wait for a slot and return it with other idle slots, `most` in total. Raises the same errors as `acquire`."""
        slots = [await self.acquire(())]
        with self._lock:
            slots += self._idle[: most - 1]
            del self._idle[: most - 1]
        return slots

    def release(self, slot: AnySlot) -> None:
        """Return a slot to the pool, for the first request in the queue."""
        with self._lock:
            while self._queue:
                loop, future = self._queue.popleft()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._hand, future, slot)
                    return
            self._idle.append(slot)

    def close(self) -> None:
        """Turn away all waiting and future requests."""
        with self._lock:
            self._closed = True
            while self._queue:
                loop, future = self._queue.popleft()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._turn_away, future)

    def _choose(self, prompt: Sequence[int]) -> AnySlot:
        """Return the idle slot that saves most of the prompt, else the least recently used one.

        A short common prefix, such as a template's system prompt, does not count: otherwise, every new chat would take
        the slot of the last one and discard its history.
        """
        opened = [slot for slot in self._idle if slot.opened]
        if not opened:
            return self._idle[0]
        prefixes = [common_prefix(slot.tokens, prompt) for slot in opened]
        longest = max(prefixes)
        nearest = opened[prefixes.index(longest)]
        begun = 0 < len(nearest.tokens) == longest  # such as a prompt whose client left: nothing is thrown away
        return nearest if begun or longest >= MIN_SIMILARITY * len(prompt) else opened[0]

    def _hand(self, future: "asyncio.Future[AnySlot]", slot: AnySlot) -> None:
        if future.done():  # its caller was cancelled
            self.release(slot)
        else:
            future.set_result(slot)

    @staticmethod
    def _turn_away(future: "asyncio.Future[AnySlot]") -> None:
        if not future.done():
            future.set_exception(EngineClosed())
