"""A short question does not wait behind a long prompt."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggserve.engines.llama_cpp import answer as engine_answer
from ggserve.engines.llama_cpp import in_process
from ggserve.engines.llama_cpp.listener import Unanswered
from ggserve.engines.llama_cpp.transport import BATCH, Chunk
from ggserve.engines.llama_cpp.turns import Turns
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.prompt_progress import PromptProgress
from tests.answers import answer
from tests.engines.tiny_models import write_tiny_model
from tests.llama_server import launcher


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


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])  # the latter with a sliding window of 128 tokens
def test_a_prompt_evaluated_in_pieces_has_the_same_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
):
    for module in (engine_answer, in_process):
        monkeypatch.setattr(module, "BATCH", 32)
    monkeypatch.setattr(engine_answer, "_PIECE", 0)
    path = write_tiny_model(tmp_path, architecture)
    answers, calls = [], []
    for slots in (1, 2):
        model = GGUFModel(path, context_length=512, parallel=slots, threads=1)
        transport = model.engine._transport  # type: ignore[union-attr]
        complete, made = transport.complete, []
        monkeypatch.setattr(transport, "complete", lambda *given, c=complete, m=made: (m.append(given), c(*given)))
        try:
            prompt = [5 + number % 200 for number in range(400)]
            answers.append(answer(model.complete(prompt, SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))))
        finally:
            model.close()
        calls.append(len(made))
    (text, last), (same, other) = answers
    assert calls[0] == 1
    assert calls[1] >= 4  # each evaluates one or two batches, and the last one what is left
    assert same == text
    assert (other.prompt_tokens, other.cached_tokens) == (last.prompt_tokens, last.cached_tokens) == (400, 0)


@pytest.mark.parametrize("tells_batches", [False, True])
def test_builds_that_tell_less_about_a_prompt_answer_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells_batches: bool
):
    """Some report only the prompt's length, others only batches that have been evaluated."""

    def told(chunk: Chunk) -> Chunk | None:
        if (progress := chunk.get("prompt_progress")) is None:
            return chunk
        begins = progress["processed"] == progress["cache"]
        if tells_batches:
            return None if begins else chunk
        return {"prompt_progress": {name: progress[name] for name in ("total", "cache")}} if begins else None

    for module in (engine_answer, in_process):
        monkeypatch.setattr(module, "BATCH", 32)
    model = GGUFModel(write_tiny_model(tmp_path, "qwen2"), context_length=512, parallel=2, threads=1)
    transport = model.engine._transport  # type: ignore[union-attr]
    complete = transport.complete

    def less(body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool]) -> None:
        complete(body, lambda chunk: (less := told(chunk)) is not None and receive(less), cancelled)

    monkeypatch.setattr(transport, "complete", less)
    try:
        prompt = [5 + number % 200 for number in range(400)]
        _, last = answer(model.complete(prompt, SamplingParams(max_tokens=8, ignore_eos=True)))
    finally:
        model.close()
    assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (400, 0, 8)


def test_a_batch_that_takes_longer_than_llama_cpp_may_stay_silent_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (engine_answer, in_process):
        monkeypatch.setattr(module, "BATCH", 32)
    monkeypatch.setattr(engine_answer, "_PIECE", 0)
    model = GGUFModel(write_tiny_model(tmp_path, "qwen2"), context_length=512, parallel=2, threads=1)
    silences = []

    def silent() -> None:
        silences.append(True)
        raise Unanswered("llama.cpp has not answered")

    monkeypatch.setattr(model.engine._transport._listener, "lora_adapters", silent)  # type: ignore[union-attr]
    try:
        prompt = [5 + number % 200 for number in range(400)]
        _, last = answer(model.complete(prompt, SamplingParams(max_tokens=8, ignore_eos=True)))
    finally:
        model.close()
    assert silences
    assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (400, 0, 8)


@pytest.mark.parametrize("in_child", [False, True])
def test_a_short_question_is_answered_before_a_long_prompt_goes_on(original_path: Path, tmp_path: Path, in_child: bool):
    server = str(launcher(tmp_path)) if in_child else "off"
    model = GGUFModel(original_path, context_length=1536, parallel=2, threads=1, llama_server=server)
    long_prompt = [1, *range(100, 1499)]
    progress = PromptProgress()

    async def ask(prompt: list[int], **options: PromptProgress) -> Delta:
        params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, **options)
        return [delta async for delta in model.complete(prompt, params)][-1]

    async def main() -> tuple[int, int, Delta]:
        long = asyncio.ensure_future(ask(long_prompt, progress=progress))
        while progress.processed < 300:
            await asyncio.sleep(0.001)
        before = progress.processed
        await ask([1, *range(50, 70)])
        return before, progress.processed, await long

    try:
        before, after, last = asyncio.run(main())
        # What is being evaluated, and one batch if the answer takes longer. A child hears one batch later of the end.
        assert after - before <= (2 + in_child) * BATCH
        assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (len(long_prompt), 0, 3)
    finally:
        model.close()
