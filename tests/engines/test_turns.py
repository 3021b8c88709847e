"""A short question does not wait behind a long prompt."""

import asyncio
import threading
import time
from pathlib import Path

from ggserve.engines.llama_cpp.turns import Turns
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel


def test_a_request_rests_while_another_computes_and_goes_on_when_that_has_ended():
    turns, order = Turns(), []
    with turns.turn() as long:
        assert not long.shall_rest
        short = turns.turn()
        with short:
            assert long.shall_rest and short.shall_rest
            resting = threading.Thread(target=lambda: (long.rest(lambda: False), order.append("long")))
            time.sleep(0.1)
            resting.start()
            time.sleep(0.01)
            assert not short.shall_rest  # the other one rests
            order.append("short")
        resting.join()
    assert order == ["short", "long"]
    assert not turns.running


def test_a_request_of_a_higher_priority_never_rests_for_others():
    turns = Turns()
    with turns.turn(priority=5) as patient, turns.turn(priority=-1) as urgent:
        assert patient.shall_rest
        assert not urgent.shall_rest


def test_a_short_question_is_answered_before_a_long_prompt_ends(shallow_original_path: Path):
    model = GGUFModel(shallow_original_path, context_length=4096, parallel=2, threads=1)
    order: list[str] = []

    async def ask(name: str, prompt: list[int]) -> Delta:
        params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
        last = [delta async for delta in model.complete(prompt, params)][-1]
        order.append(name)
        return last

    async def main() -> Delta:
        long = asyncio.ensure_future(ask("long", [1, *range(100, 3699)]))
        while model.occupancy.idle == 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        await ask("short", [1, *range(50, 70)])
        return await long

    try:
        last = asyncio.run(main())
        assert order == ["short", "long"]
        assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (3600, 0, 3)
    finally:
        model.close()
