"""Legacy families keep their buffers in static variables: two contexts must not disturb each other."""

import asyncio

import pytest

from ggserve.errors import InvalidRequest
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.answers import collect
from tests.conftest import FAMILY_FILES

GREEDY = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)


@pytest.mark.parametrize("name", ["mpt.f32.bin", "gpt2.f32.bin", "falcon.f32.bin"])
def test_parallel_answers_are_those_of_each_alone(name):
    family = name.split(".")[0]
    model = GGUFModel(FAMILY_FILES / name, model_type=family, parallel=2, threads=2, context_length=64)
    prompts = [[number + 3, number + 5, number + 8] for number in range(8)]

    async def main() -> tuple[list[str], list[str]]:
        alone = [(await collect(model.complete(prompt, GREEDY)))[0] for prompt in prompts]
        together = await asyncio.gather(*(collect(model.complete(prompt, GREEDY)) for prompt in prompts))
        return alone, [text for text, _ in together]

    alone, together = asyncio.run(main())
    model.close()
    assert len(set(alone)) > 1
    assert together == alone


def test_older_families_make_no_embeddings():
    model = GGUFModel(FAMILY_FILES / "gpt2.f32.bin", model_type="gpt2", threads=1)
    try:
        with pytest.raises(InvalidRequest, match="cannot make embeddings"):
            asyncio.run(model.embed(["a"]))
    finally:
        model.close()
