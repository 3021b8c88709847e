"""llama.cpp does with the same weights what ctransformers cannot do with a legacy file."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from ggserve.errors import ModelFileError
from ggserve.generation import Delta, SamplingParams
from ggserve.hub.converted import as_gguf
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.legacy.ggml import read_ggml
from ggserve.modelfile.legacy.layout import FAMILIES
from ggserve.modelfile.memory import plan_memory
from tests.answers import collect
from tests.conftest import FAMILY_FILES, serve

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def test_falcon_goes_back_in_its_cache(tmp_path: Path) -> None:
    model = GGUFModel(FAMILY_FILES / "falcon.f32.bin", engine="llama.cpp", cache_dir=tmp_path, threads=1, parallel=1)

    def end(prompt: list[int]) -> tuple[str, Delta]:
        return asyncio.run(collect(model.complete(prompt, GREEDY)))

    try:
        shared = list(range(20, 40))
        first = end([*shared, 50])
        other = end([*shared, 60])
        again = end([*shared, 50])
    finally:
        model.close()
    assert first[1].cached_tokens == 0
    assert other[1].cached_tokens == again[1].cached_tokens == len(shared)
    assert again[0] == first[0] != other[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slot_takes_no_copy_of_the_weights(family: str, tmp_path: Path) -> None:
    """Of the cache alone it takes at most what it took; for starcoder one head's, where there were all."""
    source = read_ggml(FAMILY_FILES / f"{family}.f32.bin", family)
    gguf = read_model_file(as_gguf(source, tmp_path, None))
    limits = {
        "context_length": 64,
        "slots": None,
        "memory": 1 << 34,
        "spare": 1 << 34,
        "uses_gpu": False,
        "shares_gpu": True,
    }
    old, new = plan_memory(source, **limits), plan_memory(gguf, **limits)
    assert (old.slots, new.slots) == (1, 4)
    width = source.header.n_embd // source.header.n_head
    heads = 1 if family == "starcoder" else source.header.n_head_kv
    assert new.slot_bytes == 64 * source.header.n_layer * 2 * 2 * heads * width < old.slot_bytes


def test_there_are_no_positions_beyond_the_learned_ones(tmp_path: Path) -> None:
    path = FAMILY_FILES / "starcoder.f32.bin"
    with pytest.raises(ModelFileError, match="more than the 64 positions"):
        GGUFModel(path, engine="llama.cpp", cache_dir=tmp_path, context_length=65)
    model = GGUFModel(path, engine="llama.cpp", cache_dir=tmp_path, threads=1, parallel=2)
    try:
        everything = SamplingParams(temperature=0, ignore_eos=True)
        _, last = asyncio.run(collect(model.complete([20, 21, 22], everything)))
    finally:
        model.close()
    assert (last.finish_reason, last.prompt_tokens + last.completion_tokens) == ("length", 64)


def test_over_http(tmp_path: Path) -> None:
    source = FAMILY_FILES / "mpt.q8_0.bin"
    settings = {"MODEL_PATH": str(source), "ENGINE": "llama.cpp", "CACHE_DIR": str(tmp_path / "models")}
    chat = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 3}
    answers = []
    for _ in range(2):  # the second start finds the conversion
        with serve(tmp_path / "logs", **settings) as server:
            health = httpx.get(f"{server.url}/health").json()
            assert (health["model"], health["engine"]) == ("mpt.q8_0", "llama.cpp")
            assert "a legacy GGML file of the family mpt, as GGUF" in health["engine_reason"]
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).json()
            answers.append(answer["choices"][0]["message"]["content"])
    assert answers[0] == answers[1]
    assert os.listdir(tmp_path / "models") == ["mpt.q8_0.from-ggml.gguf"]
