"""Embeddings of all requests, computed several at a time behind a queue of their own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic

from ggserve.engines.pool import AnySlot, Pool
from ggserve.errors import EngineClosed, EngineError, GenerationError, QueueFull
from ggserve.generation import Embedding

log = logging.getLogger("ggserve.model")

Cancelled = Callable[[], bool]
Compute = Callable[[list[AnySlot], list[Sequence[int]], Cancelled], list[Embedding]]


@dataclass(eq=False)
class _Input:
    """A text that waits for its embedding."""

    tokens: Sequence[int]
    embedding: "Future[Embedding]" = field(default_factory=Future)
    unwanted: bool = False  # its client is gone


class Batches(Generic[AnySlot]):
    """The inputs of all requests, first come, first served.

    One batch is computed at a time. Before the pool it is one request among the others, so that a chat waits for one
    batch at most.
    """

    def __init__(
        self,
        pool: Pool[AnySlot],
        compute: Compute[AnySlot],
        *,
        most: int,  # inputs in a batch, each in a slot
        queue_size: int,  # requests that may wait
        room: Callable[[Sequence[int]], int] = lambda tokens: 0,  # that an input reserves in the pool
        keeps: bool = True,  # a slot keeps what it has in common with an input
    ) -> None:
        self._pool = pool
        self._compute = compute
        self._most = most
        self.capacity = queue_size
        self._room = room
        self._keeps = keeps
        self.queued = 0  # requests that have not ended
        self._waiting: list[_Input] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def full(self) -> bool:
        """True if a new request would be turned away."""
        return self.queued >= self.capacity

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """The embedding of each input. Raises QueueFull, EngineClosed, or what `compute` raises."""
        added = [_Input(tokens) for tokens in inputs]
        with self._changed:
            if self._closed:
                raise EngineClosed
            if self.full:
                raise QueueFull(self.queued)
            self.queued += 1
            self._waiting += added
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="embeddings", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            return await asyncio.gather(*(asyncio.wrap_future(each.embedding) for each in added))
        finally:
            with self._changed:
                self.queued -= 1
                for each in added:
                    each.unwanted = True

    def close(self) -> None:
        """Ends the batch that is computed, turns away those who wait and everyone who comes later."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            try:
                tokens = self._waiting[0].tokens
                first = self._pool.wait(tokens if self._keeps else (), room=self._room(tokens))
            except EngineClosed:
                break
            slots = [first]
            try:
                with self._changed:
                    slots += self._pool.take_idle([self._room(each.tokens) for each in self._waiting[1 : self._most]])
                    batch, self._waiting = self._waiting[: len(slots)], self._waiting[len(slots) :]
                self._embed(slots, batch)
            finally:
                for slot in slots:
                    self._pool.release(slot, spent=True)
        with self._changed:
            _refuse(self._waiting, EngineClosed())

    def _wait(self) -> bool:
        """Waits for inputs that are wanted; returns whether there will be any."""
        with self._changed:
            while not self._closed:
                self._waiting = [each for each in self._waiting if not each.unwanted]
                if self._waiting:
                    return True
                self._changed.wait()
            return False

    def _embed(self, slots: list[AnySlot], batch: list[_Input]) -> None:
        def cancelled() -> bool:
            return self._closed or all(each.unwanted for each in batch)

        try:
            embeddings = self._compute(slots, [each.tokens for each in batch], cancelled)
            for each, embedding in zip(batch, embeddings, strict=True):
                if each.embedding.set_running_or_notify_cancel():
                    each.embedding.set_result(embedding)
        except Exception as error:
            if len(batch) > 1 and not self._closed:  # only one of them may be at fault
                for each in batch:
                    self._embed(slots[:1], [each])
                return
            if not isinstance(error, EngineError):
                log.exception("an embedding failed")
                error = GenerationError(f"{type(error).__name__}: {error}")
            _refuse(batch, error)


def _refuse(inputs: Sequence[_Input], error: EngineError) -> None:
    for each in inputs:
        if each.embedding.set_running_or_notify_cancel():
            each.embedding.set_exception(error)
