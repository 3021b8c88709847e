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
    wanted = {"context_length": 100, "slots": 2, "memory": 1 << 34, "spare": 0, "uses_gpu": False, "shares_gpu": True}
    alone = plan_memory(file, **wanted)
    assert plan_memory(file, **wanted, draft=file).slot_bytes == 2 * alone.slot_bytes


TOKEN = 2 * 2 * 64 * 3 * 30  # bytes of one token of SmolLM2, which was trained on 8,192


@pytest.mark.parametrize(
    ("wanted", "spare", "shares", "expected"),
    [
        ((None, None), 1 << 33, True, (8192, 4, None)),  # so little memory is no reason to share it
        ((None, 8), 1 << 33, True, (8192, 8, 32768)),  # the model's own context, and no more memory than 8 of 4,096
        ((None, None), 10_000 * TOKEN, True, (8192, 4, 9_999)),
        ((None, None), 6_000 * TOKEN, True, (5888, 4, 5_999)),  # what memory allows
        ((None, None), 100 * TOKEN, True, (4096, 4, 4096)),
        ((None, None), 1 << 33, False, (8192, 4, None)),
        ((None, None), 20_000 * TOKEN, False, (4864, 4, None)),  # each slot has a part of the memory
        ((None, None), 10_000 * TOKEN, False, (4096, 2, None)),
        ((2048, 8), 1 << 33, True, (2048, 8, None)),  # what is asked for
        ((6000, 3), 13_000 * TOKEN, True, (6000, 3, 12_999)),
        ((6000, 3), 0, False, (6000, 3, None)),
    ],
)
def test_a_context_is_the_models_own_as_far_as_memory_allows(wanted, spare, shares, expected):
    path = packaged_model()
    assert path is not None
    length, slots = wanted
    limits = {"memory": 1 << 34, "uses_gpu": False, "shares_gpu": True}
    plan = plan_memory(
        read_model_file(path), context_length=length, slots=slots, spare=spare + 1, shares_cache=shares, **limits
    )
    length, slots, shared = expected
    assert (plan.context_length, plan.slots) == (length, slots)
    assert plan.shared_tokens == pytest.approx(shared, abs=1)
    assert plan.nbytes == pytest.approx(TOKEN * (shared or length * slots), rel=1e-3)
