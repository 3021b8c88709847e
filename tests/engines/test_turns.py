"""A short question does not wait behind a long prompt."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from ggserve.engines.llama_cpp.transport import BATCH
from ggserve.engines.llama_cpp.turns import Turns
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.prompt_progress import PromptProgress


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


@pytest.mark.parametrize("begun", [1, 1000])
def test_a_short_question_is_answered_before_a_long_prompt_goes_on(original_path: Path, begun: int):
    model = GGUFModel(original_path, context_length=3072, parallel=2, threads=1)
    progress = PromptProgress()

    async def ask(prompt: list[int], **options: PromptProgress) -> Delta:
        params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, **options)
        return [delta async for delta in model.complete(prompt, params)][-1]

    async def main() -> tuple[int, int, Delta]:
        long = asyncio.ensure_future(ask([1, *range(100, 2899)], progress=progress))
        while progress.processed < begun:
            await asyncio.sleep(0.001)
        before = progress.processed
        await ask([1, *range(50, 70)])
        return before, progress.processed, await long

    try:
        before, after, last = asyncio.run(main())
        assert after - before <= 3 * BATCH  # what is evaluated, the next one, and one while the answer comes
        assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (2800, 0, 3)
    finally:
        model.close()
