"""Items from a worker arrive in order, merged if possible; an answer that nobody takes ends, and says why."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ggserve.engines.request import BEAT, RunningRequest
from ggserve.errors import GenerationError
from ggserve.generation import Delta, SamplingParams
from ggserve.messages import ToolCallDelta
from tests.processes import PATIENCE


def test_an_answer_that_nobody_reads_is_ended() -> None:
    async def run() -> int:
        request, count = RunningRequest(SamplingParams()), 0
        while not request.cancelled:
            request.put(Delta("a", 1, 0, count + 1))
            count += 1
            assert count < 10_000
        request.put_end()
        text = ""
        with pytest.raises(GenerationError, match="unread"):
            async for delta in request.listen():
                text += delta.text
        assert len(text) == count
        return count

    assert asyncio.run(run()) == 1025


def _heard(deltas: Sequence[Delta], *, n: int = 1) -> list[Delta]:
    """Return what a listener receives of deltas that were all there before it looked."""

    async def run() -> list[Delta]:
        request = RunningRequest(SamplingParams(n=n))
        for delta in deltas[:-1]:
            request.put(delta)
        request.end = deltas[-1]
        request.put_end()
        return [delta async for delta in request.listen()]

    return asyncio.run(run())


def test_pieces_that_are_there_together_are_one() -> None:
    heard = _heard([Delta("a", 3, 1, 1), Delta("b", 3, 1, 2), Delta("c", 3, 1, 3, finish_reason="stop")])
    assert heard == [Delta("abc", 3, 1, 3, finish_reason="stop")]


def test_thoughts_text_and_calls_keep_their_order() -> None:
    call, more = ToolCallDelta(0, "{", "call_1", "look"), ToolCallDelta(0, "}")
    pieces = [
        Delta("", 3, 0, 1, reasoning="Hm"),
        Delta("Yes", 3, 0, 2),
        Delta("", 3, 0, 3, reasoning="No"),
        Delta("", 3, 0, 4, tool_calls=(call,)),
        Delta("", 3, 0, 5, tool_calls=(more,)),
        Delta("!", 3, 0, 6, finish_reason="stop"),
    ]
    assert [(delta.reasoning, delta.text, delta.tool_calls) for delta in _heard(pieces)] == [
        ("Hm", "Yes", ()),
        ("No", "", (call,)),
        ("", "", (more,)),
        ("", "!", ()),
    ]


def test_answers_to_one_prompt_stay_apart() -> None:
    pieces = [Delta("a", 3, 0, 1, finish_reason="stop"), Delta("b", 3, 3, 1, finish_reason="stop", index=1)]
    assert _heard(pieces, n=2) == pieces


def test_the_first_piece_and_the_end_do_not_wait_for_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggserve.engines.request.BEAT", 3600.0)

    async def run() -> str:
        request, loop, text = RunningRequest(SamplingParams()), asyncio.get_running_loop(), ""
        first_came = threading.Event()

        def work() -> None:
            request.put(Delta("a", 3, 0, 1))
            assert first_came.wait(PATIENCE)
            request.end = Delta("b", 3, 0, 2, finish_reason="stop")
            request.put_end()

        working = loop.run_in_executor(None, work)
        async for delta in request.listen():
            text += delta.text
            first_came.set()
        await working
        return text

    assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == "ab"


def test_every_answer_is_woken_when_it_goes_on_however_many_wait() -> None:
    async def run() -> list[str]:
        requests = [RunningRequest(SamplingParams()) for _ in range(20)]
        heard = ["" for _ in requests]

        async def listen(number: int) -> None:
            async for delta in requests[number].listen():
                heard[number] += delta.text

        async def until(text: str, numbers: range) -> None:
            while any(heard[number] != text for number in numbers):
                await asyncio.sleep(0.01)

        listening = [asyncio.ensure_future(listen(number)) for number in range(20)]
        for request in requests:
            request.put(Delta("a", 1, 0, 1))
        await until("a", range(20))
        await asyncio.sleep(3 * BEAT)  # beats that find nothing
        for group in (range(10), range(10, 20)):
            for number in group:
                requests[number].put(Delta("b", 1, 0, 2))
            await until("ab", group)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        return heard

    assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == ["ab"] * 20
