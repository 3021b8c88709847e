"""The same small model on both engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from model import GGUFModel
from modelfile.source.default import packaged_model

SMALL = {"context_length": 128, "parallel": 2, "threads": 1, "queue_size": 4}


@pytest.fixture(scope="session")
def original_path() -> Path:
    """The default model's file as its package brings it, which only llama.cpp runs."""
    path = packaged_model()
    assert path is not None, "the default model's package is not installed: use `make test`"
    return path


@pytest.fixture(scope="session")
def llama_cpp_model(original_path: Path) -> Iterator[GGUFModel]:
    model = GGUFModel(original_path, **SMALL)
    yield model
    model.close()


@pytest.fixture(scope="session")
def ctransformers_model(default_path: Path) -> Iterator[GGUFModel]:
    model = GGUFModel(default_path, **SMALL)
    yield model
    model.close()


@pytest.fixture(scope="session", params=["ctransformers", "llama.cpp"])
def either(request: pytest.FixtureRequest) -> GGUFModel:
    """The model on each engine in turn: 128 tokens of context, two slots."""
    return request.getfixturevalue(f"{request.param.replace('.', '_')}_model")
