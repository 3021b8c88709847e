"""The scheduler: the slots that hold the contexts, and the queue of requests that wait for one."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ggserve.errors import EngineClosed, QueueFull

MIN_SIMILARITY = 0.5  # part of a prompt that a slot must hold to be chosen although it loses more, on every engine
_MOST_OVERTAKEN = 16  # times that a request whose room is not free yet lets a smaller one go first
_WORTH_WAITING = 256  # tokens that a slot must save for a prompt to wait until its cancelled request ends
_FEW = 256  # tokens of a history that a prompt may take from a neighbour of a busy slot instead of an older one


class Slot(Protocol):
    """Runs one request at a time, and remembers the tokens in its KV cache for the next."""

    @property
    def opened(self) -> bool:
        """True if it already uses memory."""
        ...

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def prompt_tokens(self) -> int:
        """The number of `tokens` that belong to its last prompt, at most; the rest is the answer."""
        ...

    @property
    def held(self) -> int:
        """The number of tokens in its KV cache."""
        ...


class Request(Protocol):
    """A request that uses a slot."""

    @property
    def cancelled(self) -> bool:
        """True if it returns the slot as soon as it can."""
        ...


AnySlot = TypeVar("AnySlot", bound=Slot)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _history(slot: Slot) -> int:
    """Return the number of tokens that a slot loses to a prompt without a common prefix."""
    return min(slot.prompt_tokens, len(slot.tokens))


@dataclass(eq=False)
class _Waiter(Generic[AnySlot]):
    """A request in the queue."""

    prompt: Sequence[int]
    room: int  # tokens that it reserves
    priority: int = 0
    continues: bool = False
    overtaken: int = 0
    slot: "Future[AnySlot]" = field(default_factory=Future)


class Pool(Generic[AnySlot]):
    """Gives slots to requests, first come, first served, the urgent ones first. Acquire anywhere, release from any
    thread.

    Where all slots share one cache, a request reserves room in it for its prompt and the beginning of its answer, and
    more while the answer grows. So a full cache makes requests wait and answers end, and never fails another's.
    """

    def __init__(
        self, slots: Sequence[AnySlot], queue_size: int, room: int | None = None, *, side_by_side: bool = False
    ) -> None:
        """`room`: tokens of the cache that all slots share; None: each has its own. `side_by_side`: whether neighbours
        compute faster together than other slots."""
        self.capacity = len(slots) + queue_size
        self._idle = list(slots)  # least recently used first
        self._numbers = {slot: number for number, slot in enumerate(slots)} if side_by_side else {}
        self._room = room
        self._reserved: dict[AnySlot, int] = {}  # tokens, by slots that are in use
        self._requests: dict[AnySlot, Request] = {}  # by slots that are in use, where known
        self._queue_size = queue_size
        self._queue: list[_Waiter[AnySlot]] = []  # the next one first
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
        """True if a new request would be turned away."""
        return len(self._queue) >= self._queue_size and (bool(self._queue) or not self._idle)

    async def acquire(
        self, prompt: Sequence[int], *, room: int = 0, continues: bool = False, priority: int = 0
    ) -> AnySlot:
        """A slot for `prompt`, with `room` for so many tokens; waits for both. A caller that is cancelled leaves the
        queue. A request that `continues` an answer in the making is the next; those of a lower `priority` come first.

        Raises QueueFull if too many requests are waiting, and EngineClosed if the pool is closed.
        """
        waiter = self._enter(_Waiter(prompt, room, priority, continues), always=continues)
        if waiter.slot.done():
            return waiter.slot.result()
        try:
            return await asyncio.wrap_future(waiter.slot)
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def wait(self, prompt: Sequence[int] = (), *, room: int = 0) -> AnySlot:
        """As `acquire`, for a thread, and without QueueFull."""
        return self._enter(_Waiter(prompt, room), always=True).slot.result()

    async def acquire_some(self, most: int) -> list[AnySlot]:
        """A slot, which is waited for, and others that are idle: at most `most` together. Raises as `acquire`."""
        return [await self.acquire(()), *self.take_idle([0] * (most - 1))]

    def take_idle(self, rooms: Sequence[int]) -> list[AnySlot]:
        """Slots that are idle while nobody waits, each with so much room, those that lose least: as many as there
        are."""
        taken: list[AnySlot] = []
        with self._lock:
            for room in rooms:
                if not self._idle or self._queue or not self._fits(room):
                    break
                taken.append(self._take(self._choose(()), room))
        return taken

    def used_by(self, slot: AnySlot, request: Request) -> None:
        """Name the request that has acquired a slot. When it is cancelled, the same prompt waits for the slot."""
        with self._lock:
            self._requests[slot] = request

    def release(self, slot: AnySlot, *, spent: bool = False) -> None:
        """Return a slot to the pool, for the first request in the queue. `spent`: no later prompt is likely to continue
        what it holds, so it counts as the least recently used."""
        with self._lock:
            del self._reserved[slot]
            self._requests.pop(slot, None)
            self._idle.insert(0 if spent else len(self._idle), slot)
            self._serve()

    def extend(self, slot: AnySlot, least: int, most: int) -> int:
        """Where a slot has reserved less than `least` tokens, reserves `most` of them, or as many as there are. Returns
        how many it has."""
        if self._room is None or self._reserved[slot] >= least:
            return least
        with self._lock:
            free = self._room - sum(self._reserved.values())
            self._reserved[slot] = have = self._reserved[slot] + max(0, min(most - self._reserved[slot], free))
            return have

    def crowded_out(self) -> list[AnySlot]:
        """Take the idle slots whose histories leave the shared cache too little room for what is reserved, the least
        recently used first. The caller empties them, and releases them."""
        if self._room is None:
            return []
        with self._lock:
            over = sum(self._reserved.values()) + sum(slot.held for slot in self._idle) - self._room
            taken: list[AnySlot] = []
            for slot in [slot for slot in self._idle if slot.held]:
                if over <= 0:
                    break
                over -= slot.held
                taken.append(self._take(slot, 0))
            return taken

    def close(self) -> None:
        """Turn away all waiting and future requests."""
        with self._lock:
            self._closed = True
            for waiter in self._queue:
                if waiter.slot.set_running_or_notify_cancel():
                    waiter.slot.set_exception(EngineClosed())
            self._queue.clear()

    def _enter(self, waiter: _Waiter[AnySlot], *, always: bool) -> _Waiter[AnySlot]:
        with self._lock:
            if self._closed:
                raise EngineClosed
            before = (other.continues or other.priority <= waiter.priority for other in self._queue)
            self._queue.insert(0 if waiter.continues else sum(before), waiter)
            self._serve()
            if len(self._queue) > self._queue_size and waiter in self._queue and not always:
                self._queue.remove(waiter)
                raise QueueFull(len(self._queue))
        return waiter

    def _leave(self, waiter: _Waiter[AnySlot]) -> None:
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
                self._serve()
                return
        if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
            self.release(waiter.slot.result())

    def _serve(self) -> None:
        """Gives idle slots to those who wait, where there is room."""
        for waiter in list(self._queue):
            if not self._idle or (self._queue[0] is not waiter and self._queue[0].overtaken >= _MOST_OVERTAKEN):
                return
            if not self._fits(waiter.room) or self._awaits_slot(waiter.prompt):
                continue
            for other in self._queue[: self._queue.index(waiter)]:
                other.overtaken += 1
            self._queue.remove(waiter)
            if waiter.slot.set_running_or_notify_cancel():
                waiter.slot.set_result(self._take(self._choose(waiter.prompt), waiter.room))

    def _fits(self, room: int) -> bool:
        return self._room is None or not self._reserved or room + sum(self._reserved.values()) <= self._room

    def _take(self, slot: AnySlot, room: int) -> AnySlot:
        self._idle.remove(slot)
        self._reserved[slot] = room
        return slot

    def _awaits_slot(self, prompt: Sequence[int]) -> bool:
        """Return whether a cancelled request will soon return a slot that saves more of the prompt than an idle one, as
        when a client sends it again at once."""
        leaving = [slot for slot, request in self._requests.items() if request.cancelled]
        if not leaving or len(self._queue) > self._queue_size:
            return False
        soon = max(common_prefix(slot.tokens, prompt) for slot in leaving)
        return soon >= common_prefix(self._choose(prompt).tokens, prompt) + _WORTH_WAITING

    def _choose(self, prompt: Sequence[int]) -> AnySlot:
        """Return the idle slot that holds most of the prompt if that saves at least as much as it loses, else an empty
        one, else the least recently used one.

        Otherwise, every new chat with the same system prompt would take the slot of the last one and discard its
        history. Where most of the prompt is saved, what the least recently used slot would lose counts too. Answers do
        not count as lost, because the next turn often spells them differently.
        """
        opened = [slot for slot in self._idle if slot.opened]
        if not opened:
            return self._idle[0]
        oldest = self._neighbour(opened, next((slot for slot in opened if not slot.tokens), opened[0]))
        nearest = max(opened, key=lambda slot: common_prefix(slot.tokens, prompt))
        saved = common_prefix(nearest.tokens, prompt)
        lost = _history(nearest) - saved
        spared = _history(oldest) if saved >= MIN_SIMILARITY * len(prompt) else 0
        return nearest if lost <= saved + spared else oldest

    def _neighbour(self, idle: Sequence[AnySlot], oldest: AnySlot) -> AnySlot:
        """Return an idle slot next to a busy one that loses little more than `oldest`, or `oldest`."""
        busy = {self._numbers[slot] for slot in self._reserved} if self._numbers else set()
        near = (slot for slot in idle if busy & {self._numbers[slot] - 1, self._numbers[slot] + 1}) if busy else ()
        most = _history(oldest) + _FEW if oldest.tokens else 0
        return next((slot for slot in near if _history(slot) <= most), oldest)
