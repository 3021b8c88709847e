"""Speculative decoding changes no greedy answer, and guesses are counted."""

import asyncio
from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import FAMILY_FILES

LOOP = "The cat sat on the mat, the dog lay by the door, and the rain fell on the roof of the old house. "
PROMPTS = (LOOP * 4, "The three primary colours are")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def answers(path: Path, **options: object) -> tuple[list[str], list[Delta]]:
    """Texts and last deltas."""
    model = GGUFModel(path, threads=1, parallel=1, context_length=256, **options)

    async def answer(prompt: str) -> tuple[str, Delta]:
        deltas = [delta async for delta in model.complete(prompt, GREEDY)]
        return "".join(delta.text for delta in deltas), deltas[-1]

    async def all_answers() -> list[tuple[str, Delta]]:
        return [await answer(prompt) for prompt in PROMPTS]

    try:
        texts, lasts = zip(*asyncio.run(all_answers()), strict=True)
    finally:
        model.close()
    return list(texts), list(lasts)


@pytest.fixture(scope="module")
def plain(original_path: Path) -> list[str]:
    texts, lasts = answers(original_path)
    assert all(last.accepted_tokens == last.rejected_tokens == 0 for last in lasts)
    return texts


def test_text_that_repeats_itself_is_guessed(original_path: Path, plain: list[str]):
    texts, lasts = answers(original_path, speculate="ngram-mod")
    assert texts == plain
    assert lasts[0].accepted_tokens > 4
    assert all(last.completion_tokens == GREEDY.max_tokens for last in lasts)


def test_a_draft_model_that_is_the_model_itself_is_nearly_always_right(original_path: Path, plain: list[str]):
    texts, lasts = answers(original_path, draft_model=original_path)
    assert texts == plain
    for last in lasts:
        assert last.accepted_tokens > 2 * last.rejected_tokens
        assert last.accepted_tokens >= 10


def test_a_draft_model_of_another_vocabulary_is_refused(original_path: Path):
    with pytest.raises(ModelFileError, match=r"DRAFT_MODEL=llama\.q8_0\.v3\.gguf: its vocabulary differs"):
        GGUFModel(original_path, draft_model=FAMILY_FILES / "llama.q8_0.v3.gguf")


def test_smaller_caches_and_no_flash_attention_answer_too(shallow_original_path: Path):
    texts, _ = answers(shallow_original_path, kv_cache_type="q8_0", prompt_cache=0)
    assert all(texts)
    texts, _ = answers(shallow_original_path, flash_attention="off")
    assert all(texts)
