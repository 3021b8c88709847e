import asyncio

import pytest

from ggserve.engines.pool import Pool, common_prefix
from ggserve.errors import EngineClosed, QueueFull


class FakeSlot:
    """A slot without a context."""

    def __init__(self, *tokens: int, opened: bool = True) -> None:
        self.tokens = list(tokens)
        self.prompt_tokens = len(tokens)
        self.opened = opened


def acquired(pool: Pool[FakeSlot], *prompt: int) -> FakeSlot:
    return asyncio.run(pool.acquire(prompt))


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0


def test_the_slot_that_knows_most_of_the_prompt_is_taken():
    chat, other = FakeSlot(1, 2, 3, 4), FakeSlot(1, 9)
    assert acquired(Pool([other, chat], 0), 1, 2, 3, 4, 5) is chat


def test_a_short_common_beginning_costs_nobody_their_history():
    recent, old = FakeSlot(1, 2, 3, 4), FakeSlot(7, 8)
    pool = Pool([old, recent], 0)
    assert acquired(pool, 1, 20, 21, 22) is old


def test_a_chat_that_shares_only_a_long_system_prompt_takes_an_empty_slot():
    system = range(100)
    chat, empty = FakeSlot(*system, *range(200, 400)), FakeSlot()
    assert acquired(Pool([chat, empty], 0), *system, 500) is empty
    chat, short = FakeSlot(*system, *range(200, 400)), FakeSlot(7)
    assert acquired(Pool([short, chat], 0), *system, 500) is short
    chat, old = FakeSlot(*system, *range(200, 400)), FakeSlot(*range(600, 800))
    assert acquired(Pool([old, chat], 0), *system, 500) is chat  # one of both has to go


def test_a_new_prompt_takes_the_neighbour_of_a_busy_slot_unless_that_loses_much_more():
    chats = [FakeSlot(*range(1000 * number, 1000 * number + 300)) for number in range(1, 5)]
    pool = Pool(chats, 0, side_by_side=True)
    assert acquired(pool, *range(2000, 2300), 1) is chats[1]
    assert acquired(pool, 7) is chats[0]  # the oldest is a neighbour already
    assert acquired(pool, 7) is chats[2]
    long, empty = FakeSlot(*range(5000, 6000)), FakeSlot()
    for far in (FakeSlot(8), empty):
        busy = FakeSlot(1, 2, 3)
        pool = Pool([far, long, busy], 0, side_by_side=True)
        assert acquired(pool, 1, 2, 3, 4) is busy
        assert acquired(pool, 7) is far


def test_where_neighbours_are_no_faster_the_oldest_slot_is_taken():
    oldest, other, busy = FakeSlot(8), FakeSlot(9), FakeSlot(1, 2, 3)
    pool = Pool([oldest, other, busy], 0)
    assert acquired(pool, 1, 2, 3, 4) is busy
    assert acquired(pool, 7) is oldest


@pytest.mark.parametrize("answer", [0, 500])
def test_what_goes_on_with_a_slot_takes_it_however_much_is_new(answer: int):
    begun, empty = FakeSlot(*range(100 + answer)), FakeSlot()
    begun.prompt_tokens = 100
    assert acquired(Pool([empty, begun], 0), *range(98), *range(1000, 2000)) is begun


class Request:
    """A request that uses a slot."""

    cancelled = False


def test_the_prompt_of_a_cancelled_request_waits_for_its_slot():
    async def main() -> None:
        pool, request, prompt = Pool([FakeSlot(n) for n in range(1, 4)], 9), Request(), range(1000)
        slot = await pool.acquire(prompt)
        slot.tokens = [*prompt][:300]
        pool.used_by(slot, request)
        await pool.acquire(prompt)  # the request may take long
        request.cancelled = True
        waiting = asyncio.ensure_future(pool.acquire(prompt))
        await asyncio.sleep(0)
        assert not waiting.done()
        await pool.acquire(prompt[:200])  # not worth it
        pool.release(slot)
        assert await waiting is slot

    asyncio.run(main())


def test_nobody_is_turned_away_for_a_slot_of_a_cancelled_request():
    async def main() -> None:
        slots = [FakeSlot(*range(500)), FakeSlot()]
        pool, request = Pool(slots, 0), Request()
        pool.used_by(await pool.acquire(range(500)), request)
        request.cancelled = True
        assert await pool.acquire(range(500)) is slots[1]

    asyncio.run(main())


def test_the_least_recently_used_slot_is_taken_else():
    slots = [FakeSlot(1), FakeSlot(2), FakeSlot(3)]
    pool = Pool(slots, 0)
    assert [acquired(pool, 9) for _ in slots] == slots
    for slot in reversed(slots):
        pool.release(slot)
    assert [acquired(pool, 9) for _ in slots] == slots[::-1]


def test_memory_is_taken_only_when_no_opened_slot_is_idle():
    fresh, opened = FakeSlot(opened=False), FakeSlot(1)
    pool = Pool([fresh, opened], 0)
    assert acquired(pool, 9) is opened
    assert acquired(pool, 9) is fresh


def test_first_come_first_served():
    async def main() -> list[int]:
        pool = Pool([FakeSlot()], 10)
        slot = await pool.acquire([1])
        served: list[int] = []

        async def request(number: int) -> None:
            got = await pool.acquire([1])
            served.append(number)
            pool.release(got)

        tasks = [asyncio.ensure_future(request(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        assert pool.queued == 4
        pool.release(slot)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert pool.idle == 1
        return served

    assert asyncio.run(main()) == [0, 1, 3, 4]


def test_leaving_just_when_the_slot_arrives_loses_nothing():
    async def main() -> None:
        pool = Pool([FakeSlot()], 10)
        slot = await pool.acquire([1])
        waiting = asyncio.ensure_future(pool.acquire([1]))
        await asyncio.sleep(0)
        pool.release(slot)
        await asyncio.sleep(0)  # the slot is handed over; the waiter has not run yet
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert pool.idle == 1

    asyncio.run(main())


def test_too_many_waiters_are_refused_and_closing_turns_the_rest_away():
    async def main() -> None:
        pool = Pool([FakeSlot()], 1)
        await pool.acquire([1])
        waiting = asyncio.ensure_future(pool.acquire([1]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await pool.acquire([1])
        pool.close()
        with pytest.raises(EngineClosed):
            await waiting
        with pytest.raises(EngineClosed):
            await pool.acquire([1])

    asyncio.run(main())


def test_a_request_that_continues_an_answer_is_next_and_never_refused():
    async def main() -> list[int]:
        pool = Pool([FakeSlot()], 1)
        slot = await pool.acquire([1])
        served: list[int] = []

        async def request(number: int, *, continues: bool) -> None:
            pool.release(await pool.acquire([], continues=continues))
            served.append(number)

        waiting = [asyncio.create_task(request(number, continues=number == 1)) for number in (0, 1)]
        await asyncio.sleep(0)
        pool.release(slot)
        await asyncio.gather(*waiting)
        return served

    assert asyncio.run(main()) == [1, 0]


def test_several_slots_are_the_idle_ones_and_never_more_than_are_wanted():
    async def main() -> None:
        pool = Pool([FakeSlot(1), FakeSlot(2), FakeSlot(3)], 10)
        assert len(await pool.acquire_some(2)) == 2
        (last,) = await pool.acquire_some(5)
        assert pool.idle == 0
        waiting = asyncio.ensure_future(pool.acquire_some(5))
        await asyncio.sleep(0)
        pool.release(last)
        assert await waiting == [last]

    asyncio.run(main())


def test_a_shared_cache_makes_requests_wait_for_room_and_small_ones_go_first():
    async def main() -> None:
        pool = Pool([FakeSlot(n) for n in range(4)], 10, room=100)
        slots = [await pool.acquire([], room=room) for room in (50, 30)]
        large = asyncio.ensure_future(pool.acquire([], room=60))
        await asyncio.sleep(0)
        small = await pool.acquire([], room=20)
        assert (pool.idle, pool.queued, large.done()) == (1, 1, False)
        pool.release(small)
        pool.release(slots[1])
        await asyncio.sleep(0.01)
        assert not large.done()
        pool.release(slots[0])
        pool.release(await large)
        assert pool.idle == 4

    asyncio.run(main())


def test_small_requests_do_not_keep_a_large_one_waiting_for_ever():
    async def main() -> int:
        pool = Pool([FakeSlot(n) for n in range(3)], 10, room=100)
        slots = [await pool.acquire([], room=50)]
        large = asyncio.ensure_future(pool.acquire([], room=60))
        await asyncio.sleep(0)
        for served in range(1000):
            small = asyncio.ensure_future(pool.acquire([], room=10))
            await asyncio.sleep(0.001)
            if not small.done():
                pool.release(slots[0])
                await large
                return served
            pool.release(await small)
        raise AssertionError("the large one waits for ever")

    assert 0 < asyncio.run(main()) < 100


def test_an_answer_that_grows_takes_the_room_that_is_left_and_no_more():
    async def main() -> None:
        pool = Pool([FakeSlot(n) for n in range(2)], 10, room=100)
        one, other = await pool.acquire([], room=30), await pool.acquire([], room=40)
        assert pool.extend(one, 20, 60) == 20  # it has them
        assert pool.extend(one, 35, 50) == 50
        assert pool.extend(other, 55, 90) == 50
        pool.release(one)
        assert pool.extend(other, 55, 90) == 90

    asyncio.run(main())


def test_a_request_larger_than_the_cache_runs_alone():
    async def main() -> None:
        pool = Pool([FakeSlot(n) for n in range(2)], 10, room=100)
        slot = await pool.acquire([], room=150)
        waiting = asyncio.ensure_future(pool.acquire([], room=1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        pool.release(slot)
        await waiting

    asyncio.run(main())


def test_urgent_requests_come_first():
    async def main() -> list[int]:
        pool = Pool([FakeSlot()], 10)
        slot = await pool.acquire([])
        served: list[int] = []

        async def request(priority: int) -> None:
            got = await pool.acquire([], priority=priority)
            served.append(priority)
            pool.release(got)

        tasks = [asyncio.ensure_future(request(priority)) for priority in (0, 5, -1, 0)]
        await asyncio.sleep(0)
        pool.release(slot)
        await asyncio.gather(*tasks)
        return served

    assert asyncio.run(main()) == [-1, 0, 0, 5]
