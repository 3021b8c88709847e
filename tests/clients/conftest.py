"""Servers for clients in an environment of their own: `make test-clients`. Nothing of ggserve is imported."""

from collections.abc import Iterator

import pytest

from tests.served import served


@pytest.fixture(scope="session", params=["ctransformers", "llama.cpp"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server with the default model, on each engine in turn."""
    with served(tmp_path_factory.mktemp("logs"), ENGINE=request.param, CONTEXT_LENGTH="2048") as base:
        yield f"{base}/v1"
