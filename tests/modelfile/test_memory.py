"""The memory of a slot."""

import pytest

from ggserve.hub.default import packaged_model
from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.memory import cache_bytes_per_token, plan_memory


def test_a_token_in_the_cache_takes_what_its_type_takes():
    path = packaged_model()
    assert path is not None
    file = read_model_file(path)
    numbers = 2 * 64 * 3 * 30  # keys and values, of SmolLM2's 3 heads of 64 in 30 layers
    expected = {"f16": 2 * numbers, "bf16": 2 * numbers, "q8_0": numbers * 34 / 32, "q4_0": numbers * 18 / 32}
    assert {kind: cache_bytes_per_token(file, kind) for kind in expected} == pytest.approx(expected)
    wanted = {"context_length": 100, "slots": 2, "memory": 1 << 34, "uses_gpu": False, "shares_gpu": True}
    alone = plan_memory(file, **wanted)
    assert plan_memory(file, **wanted, draft=file).slot_bytes == 2 * alone.slot_bytes
