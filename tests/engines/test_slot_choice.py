"""Which slot a prompt gets, so that little is evaluated again, on both engines and both transports of llama.cpp."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ggserve.engines.pool import common_prefix
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.prompt_progress import PromptProgress
from tests.llama_server import launcher
from tests.shallow_model import write_shallow_model

ONE = SamplingParams(max_tokens=1)


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp", "child"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, default_path: Path, original_path: Path
) -> Iterator[GGUFModel]:
    """Three slots, of which each holds a short prompt."""
    folder = tmp_path_factory.mktemp("model")
    engine = "ctransformers" if request.param == "ctransformers" else "llama.cpp"
    path = write_shallow_model(default_path if engine == "ctransformers" else original_path, folder / "model.gguf")
    server = str(launcher(folder)) if request.param == "child" else "off"
    sizes = {"context_length": 2048, "parallel": 3, "threads": 1}
    model = GGUFModel(path, engine=engine, llama_server=server, **sizes)
    asyncio.run(together(model, [[first, 9, 9] for first in (5, 6, 7)]))
    yield model
    model.close()


async def together(model: GGUFModel, prompts: list[list[int]]) -> None:
    await asyncio.gather(*(ask(model, prompt) for prompt in prompts))


async def ask(model: GGUFModel, prompt: list[int], params: SamplingParams = ONE) -> Delta:
    return [delta async for delta in model.complete(prompt, params)][-1]


def tokens(first: int, count: int) -> list[int]:
    return [first + 7 * number % 900 for number in range(count)]


def test_an_aborted_prompt_that_is_sent_again_at_once_keeps_what_was_evaluated(model: GGUFModel) -> None:
    prompt = tokens(1000, 1000)

    async def main() -> tuple[int, Delta]:
        progress = PromptProgress()
        aborted = asyncio.ensure_future(ask(model, prompt, SamplingParams(max_tokens=1, progress=progress)))
        while progress.processed < 300:
            await asyncio.sleep(0.001)
        aborted.cancel()
        with suppress(asyncio.CancelledError):
            await aborted
        evaluated = progress.processed
        return evaluated, await ask(model, prompt)

    evaluated, last = asyncio.run(main())
    assert evaluated >= 300
    assert last.cached_tokens >= min(evaluated, len(prompt) - 1)  # the last token is always evaluated


def test_a_chat_that_shares_only_a_system_prompt_leaves_another_its_slot(model: GGUFModel) -> None:
    asyncio.run(together(model, [[first, 9, 9] for first in (5, 6, 7)]))
    system = tokens(2000, 150)
    chat, other = [*system, *tokens(3000, 450)], [*system, *tokens(4000, 100)]
    asyncio.run(ask(model, chat))
    asyncio.run(ask(model, other))
    assert asyncio.run(ask(model, [*chat, 8])).cached_tokens >= len(chat)
    assert asyncio.run(ask(model, [*other, 8])).cached_tokens >= len(other)


def test_embeddings_cost_one_slot_its_history_however_many_they_are(model: GGUFModel) -> None:
    asyncio.run(together(model, [[first, 9, 9] for first in (5, 6, 7)]))
    chats = [tokens(1000, 400), tokens(3000, 300)]
    for chat in chats:
        asyncio.run(ask(model, chat))
    for first in range(4000, 4005):
        asyncio.run(model.embed([tokens(first, 50), tokens(first + 100, 50)]))
    for chat in chats:
        assert asyncio.run(ask(model, [*chat, 8])).cached_tokens >= len(chat)


def test_a_chat_counts_as_cut_when_its_beginning_was_embedded(model: GGUFModel) -> None:
    chat = tokens(5000, 400)
    asyncio.run(ask(model, chat))
    asyncio.run(model.embed([chat[:300]]))
    engine: Any = model.engine
    slots = engine._contexts if engine.name == "ctransformers" else engine._slots
    known = max(common_prefix(slot.tokens, chat) for slot in slots)
    assert 300 <= known <= asyncio.run(ask(model, [*chat, 8])).cached_tokens


@pytest.mark.parametrize("child", [False, True], ids=["in process", "child"])
def test_an_embedding_in_the_only_slot_leaves_a_chat_in_memory(
    shallow_original_path: Path, tmp_path: Path, child: bool
) -> None:
    server = str(launcher(tmp_path)) if child else "off"
    model = GGUFModel(shallow_original_path, llama_server=server, context_length=512, parallel=1, threads=1)
    chat = tokens(1000, 300)
    asyncio.run(ask(model, chat))
    asyncio.run(model.embed([tokens(5000, 50)]))
    assert asyncio.run(ask(model, [*chat, 8])).cached_tokens >= len(chat)
    model.close()
