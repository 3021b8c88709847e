"""An answer that nobody takes ends, and says why."""

import asyncio

import pytest

from engine.contract import Delta
from engine.errors import GenerationError
from engine.request import RunningRequest


def test_an_answer_that_nobody_reads_is_ended() -> None:
    async def run() -> int:
        request, count = RunningRequest(), 0
        while not request.cancelled:
            request.put(Delta("a", 1, 0, count + 1))
            count += 1
            assert count < 10_000
        request.put_end()
        read = 0
        with pytest.raises(GenerationError, match="unread"):
            async for _ in request.listen():
                read += 1
        assert read == count
        return count

    assert asyncio.run(run()) == 1025
