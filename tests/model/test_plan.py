"""The plan of a load."""

from pathlib import Path

import pytest

from ggserve.hub.default import packaged_model
from ggserve.model.plan import LoadOptions, plan_load

TRAINED = 8192  # tokens of the default model


@pytest.mark.parametrize(("engine", "expected"), [("llama.cpp", TRAINED), ("ctransformers", TRAINED + 1)])
def test_a_context_ends_where_the_engine_does(
    engine, expected: int, default_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = packaged_model() if engine == "llama.cpp" else default_path
    assert path is not None
    plan = plan_load(path, LoadOptions(engine=engine, context_length=TRAINED + 1))
    assert plan.memory.context_length == expected
    (warning,) = [record.getMessage() for record in caplog.records if "CONTEXT_LENGTH" in record.getMessage()]
    assert warning.startswith("CONTEXT_LENGTH=8193 is more than the 8192 tokens")
    assert (f"the context has {TRAINED} tokens; ROPE_SCALING=yarn" in warning) == (engine == "llama.cpp")
