"""Histories in a cache that slots share: when it is full, the least recently used go, and nobody believes otherwise."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggserve.engines.pool import common_prefix
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.llama_server import launcher

SLOTS, CONTEXT = 3, 1024


@pytest.fixture(params=["in process", "child"])
def model(request: pytest.FixtureRequest, tmp_path: Path, shallow_original_path: Path) -> Iterator[GGUFModel]:
    server = str(launcher(tmp_path)) if request.param == "child" else "off"
    memory = shallow_original_path.stat().st_size + (4 << 20)  # bytes: too little for a cache for each slot
    sizes: dict[str, Any] = {"context_length": CONTEXT, "parallel": SLOTS, "threads": 1, "memory": memory}
    model = GGUFModel(shallow_original_path, engine="llama.cpp", llama_server=server, prompt_cache=0, **sizes)
    yield model
    model.close()


def ask(model: GGUFModel, prompt: list[int], max_tokens: int = 1) -> Delta:
    async def last() -> Delta:
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        return [delta async for delta in model.complete(prompt, params)][-1]

    return asyncio.run(last())


def tokens(first: int, count: int) -> list[int]:
    return [first + 7 * number % 900 for number in range(count)]


def known(model: GGUFModel, prompt: list[int]) -> int:
    """Return how many tokens of a prompt the engine believes a slot to hold."""
    return max(common_prefix(slot.tokens, prompt) for slot in model.engine._slots)  # type: ignore[union-attr]


def room(model: GGUFModel) -> int:
    """Return the tokens that the cache holds, at least."""
    found = model.engine.pool._room
    assert found is not None
    return found


def test_the_least_recently_used_history_makes_room_for_a_prompt(model: GGUFModel) -> None:
    length = room(model) // SLOTS  # two of them, and then another, whose answer fills more than the rest
    recent, oldest, other = (tokens(first, length - 40) for first in (1000, 2000, 3000))
    for chat in (recent, oldest, [*recent, 8]):  # the recent one is in the first slot, which llama.cpp would empty
        ask(model, chat)
    assert ask(model, other, 300).completion_tokens == 300
    assert (known(model, recent), known(model, oldest)) == (len(recent), 0)
    assert ask(model, [*recent, 9]).cached_tokens >= len(recent)
    assert ask(model, oldest).cached_tokens == 0


def test_the_least_recently_used_history_makes_room_for_an_answer(model: GGUFModel) -> None:
    recent, oldest = (tokens(first, room(model) // 4) for first in (1000, 2000))
    for chat in (recent, oldest, [*recent, 8]):
        ask(model, chat)
    assert ask(model, tokens(3000, 8), 600).completion_tokens == 600  # reserves more than half of the cache by and by
    assert (known(model, recent), known(model, oldest)) == (len(recent), 0)
    assert ask(model, [*recent, 9]).cached_tokens >= len(recent)


def test_histories_with_their_answers_are_kept_while_there_is_room(model: GGUFModel) -> None:
    first, second = tokens(1000, 200), tokens(2000, 200)
    for chat in (first, second):
        assert ask(model, chat, 100).completion_tokens == 100
    for chat in (first, second):
        assert ask(model, [*chat, 9]).cached_tokens >= len(chat)


def test_embeddings_take_no_room_from_a_chat(model: GGUFModel) -> None:
    chat = tokens(1000, 300)
    ask(model, chat)
    for first in range(2000, 2004):
        asyncio.run(model.embed([tokens(first, 500)]))
    assert ask(model, [*chat, 9]).cached_tokens >= len(chat)
