"""llama.cpp in a child process: files that accompany a model, and requests other than completions."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggserve.engines.llama_cpp.build import read_build
from ggserve.errors import EngineError
from ggserve.generation import MediaPrompt, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer
from tests.engines.tiny_companions import write_adapter, write_projector
from tests.engines.tiny_models import write_tiny_model
from tests.llama_server import launcher

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
RED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
DOCUMENTS = ["a dog", "the the the", "a cat", "b", "c"]


def load(path: Path, folder: Path | None, **options: Any) -> GGUFModel:
    """The model in a child process, or without a folder for its launcher in this one."""
    server = "off" if folder is None else str(launcher(folder))
    return GGUFModel(path, **{"threads": 1, "parallel": 2, "context_length": 64, "llama_server": server, **options})


def test_an_adapter_changes_what_a_text_means_by_its_scale(tmp_path: Path) -> None:
    path, adapter = write_tiny_model(tmp_path, "qwen2"), write_adapter(tmp_path / "lora,a:b.gguf")

    def meant(**options: Any) -> NDArray[np.float32]:
        model = load(path, tmp_path, **options)
        try:
            return asyncio.run(model.embed([[5, 6, 7, 8]]))[0].vector
        finally:
            model.close()

    plain = meant()
    assert meant(lora_path=adapter) @ plain < 0.999
    assert meant(lora_path=adapter, lora_scale=0.0) @ plain > 0.9999


def test_images_are_seen_before_and_after_a_death(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    projector = write_projector(tmp_path / "mmproj-tiny.gguf")
    model = load(path, tmp_path, mmproj_path=projector, context_length=128)
    try:
        prompt = MediaPrompt(f"What is {model.engine.media_marker}?", (RED,))
        text, last = answer(model.engine.generate(prompt, GREEDY))
        assert last.prompt_tokens > len(model.tokenize("What is ?"))
        server = model.engine._transport._server  # type: ignore[union-attr]
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait()
        assert answer(model.engine.generate(prompt, GREEDY))[0] == text
    finally:
        model.close()


def test_embeddings_and_ranks_are_those_of_the_other_transport(tmp_path: Path) -> None:
    ranks = read_build(str(launcher(tmp_path))).has("--reranking")
    bert, reranker = write_tiny_model(tmp_path, "bert"), write_tiny_model(tmp_path, "reranker")
    vectors, scores = [], []
    for folder in (None, tmp_path):
        model = load(bert, folder)
        vectors.append([each.vector for each in asyncio.run(model.embed(DOCUMENTS))])
        model.close()
        if not ranks:
            continue
        model = load(reranker, folder)
        scores.append(asyncio.run(model.rerank("the cat", DOCUMENTS)).scores)
        model.close()
    for own, other in zip(*vectors, strict=True):
        assert own @ other == pytest.approx(1, abs=1e-3)
    if ranks:
        assert scores[0] == pytest.approx(scores[1], abs=1e-2)
    else:
        with pytest.raises(EngineError, match="no --reranking"):
            load(reranker, tmp_path)


def test_text_that_repeats_itself_is_guessed(original_path: Path, tmp_path: Path) -> None:
    loop = "The cat sat on the mat, the dog lay by the door, and the rain fell on the roof of the old house. " * 4
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    texts = []
    for speculate in ("off", "ngram-mod"):
        model = load(original_path, tmp_path, parallel=1, context_length=256, speculate=speculate)
        text, last = answer(model.complete(loop, params))
        texts.append(text)
        model.close()
    if not os.environ.get("TEST_LLAMA_SERVER"):  # some kernels round otherwise for several tokens at once
        assert texts[0] == texts[1]
    assert last.accepted_tokens > (0 if os.environ.get("TEST_LLAMA_SERVER") else 4)


def test_prompts_are_saved_and_read_again_after_a_death(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "gemma3")
    folder = tmp_path / "states"
    chats = [[5 + (7 * number + shift) % 90 for number in range(300)] for shift in range(2)]
    model = load(path, tmp_path, parallel=1, context_length=512, prompt_cache_dir=folder)

    def cached(chat: list[int]) -> tuple[str, int]:
        text, last = answer(model.complete(chat, GREEDY))
        return text, last.cached_tokens

    def die() -> None:
        server = model.engine._transport._server  # type: ignore[union-attr]
        process = server._process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while server._process is process:
            time.sleep(0.02)
        server.wait()

    try:
        text = cached(chats[0])[0]
        cached(chats[1])
        assert cached(chats[0]) == (text, len(chats[0]) - 1)
        die()
        assert cached(chats[0]) == (text, len(chats[0]) - 1)  # from disk: the slots of the new process are empty
        saved = sorted(folder.glob("*/*.state"))
        die()
    finally:
        model.close()
    assert sorted(folder.glob("*/*.state")) == saved  # nothing was saved of an empty slot
    model = load(path, tmp_path, parallel=1, context_length=512, prompt_cache_dir=folder)
    try:
        assert cached(chats[1])[1] == len(chats[1]) - 1
    finally:
        model.close()
