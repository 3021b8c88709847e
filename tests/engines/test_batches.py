"""The queue of embeddings: fair, bounded, and no burden to chats."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ggserve.engines.batches import Batches
from ggserve.engines.pool import Pool
from ggserve.errors import EngineClosed, GenerationError, QueueFull
from ggserve.generation import Embedding
from tests.engines.test_pool import FakeSlot


class Fixed:
    """Computes nothing, once it may."""

    def __init__(self, most: int = 2, queue_size: int = 100) -> None:
        self.pool = Pool([FakeSlot(n) for n in range(3)], 0)
        self.may_run = threading.Event()
        self.batches: list[list[Sequence[int]]] = []
        self.queue = Batches(self.pool, self._compute, most=most, queue_size=queue_size)

    def _compute(
        self, slots: list[FakeSlot], inputs: list[Sequence[int]], cancelled: Callable[[], bool]
    ) -> list[Embedding]:
        self.batches.append(inputs)
        assert len(slots) >= len(inputs)
        while not self.may_run.wait(0.005):
            if cancelled():
                raise EngineClosed
        if any(tokens[0] < 0 for tokens in inputs):
            raise GenerationError("negative")
        return [Embedding(np.ones(1, np.float32), tokens[0]) for tokens in inputs]


def test_requests_at_the_same_time_are_computed_together_and_leave_slots_to_chats():
    async def main() -> None:
        fixed = Fixed()
        requests = [asyncio.ensure_future(fixed.queue.embed([[n], [n + 100]])) for n in range(20)]
        while not fixed.batches:
            await asyncio.sleep(0.005)
        chat = await fixed.pool.acquire([])  # at once, although 40 inputs wait
        fixed.pool.release(chat)
        fixed.may_run.set()
        answers = await asyncio.gather(*requests)
        assert [[each.prompt_tokens for each in answer] for answer in answers] == [[n, n + 100] for n in range(20)]
        assert max(map(len, fixed.batches)) == 2
        while fixed.pool.idle < 3:  # the slots come back after the answers
            await asyncio.sleep(0.005)
        fixed.queue.close()

    asyncio.run(main())


def test_a_chat_that_waits_comes_before_the_next_batch():
    async def main() -> None:
        fixed = Fixed(most=3)
        fixed.pool = Pool([FakeSlot()], 1)
        fixed.queue = Batches(fixed.pool, fixed._compute, most=3, queue_size=10)
        requests = asyncio.gather(*(fixed.queue.embed([[n]]) for n in range(5)))
        while not fixed.batches:
            await asyncio.sleep(0.005)
        chat = asyncio.ensure_future(fixed.pool.acquire([]))
        await asyncio.sleep(0)
        fixed.may_run.set()
        slot = await chat
        assert len(fixed.batches) == 1
        fixed.pool.release(slot)
        assert len(await requests) == 5
        fixed.queue.close()

    asyncio.run(main())


def test_too_many_are_refused_and_those_that_leave_make_room():
    async def main() -> None:
        fixed = Fixed(queue_size=2)
        running = [asyncio.ensure_future(fixed.queue.embed([[n]])) for n in range(2)]
        await asyncio.sleep(0)
        assert fixed.queue.full
        with pytest.raises(QueueFull):
            await fixed.queue.embed([[2]])
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        fixed.may_run.set()
        assert len(await fixed.queue.embed([[3]])) == 1
        fixed.queue.close()
        with pytest.raises(EngineClosed):
            await fixed.queue.embed([[4]])

    asyncio.run(main())


def test_an_input_that_fails_fails_alone():
    async def main() -> None:
        fixed = Fixed()
        fixed.may_run.set()
        found = await asyncio.gather(*(fixed.queue.embed([[n]]) for n in (1, -1, 2, 3)), return_exceptions=True)
        assert [isinstance(each, GenerationError) for each in found] == [False, True, False, False]
        fixed.queue.close()

    asyncio.run(main())


def test_closing_ends_the_batch_that_is_computed():
    async def main() -> None:
        fixed = Fixed()
        requests = [asyncio.ensure_future(fixed.queue.embed([[n]])) for n in range(5)]
        while not fixed.batches:
            await asyncio.sleep(0.005)
        fixed.pool.close()
        await asyncio.to_thread(fixed.queue.close)
        found = await asyncio.gather(*requests, return_exceptions=True)
        assert all(isinstance(each, EngineClosed) for each in found)

    asyncio.run(main())
