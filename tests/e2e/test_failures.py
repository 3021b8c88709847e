"""A failed generation is a 500 that gives the reason, and affects nothing else."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from ggserve.api.errors import install_error_handlers
from ggserve.api.record import RecordMiddleware
from ggserve.errors import ModelFileError
from ggserve.model.load import load
from ggserve.model.plan import LoadOptions
from ggserve.modelfile.gguf import read_gguf
from tests.api.state import app_state
from tests.conftest import FAMILY_FILES, serve


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A model whose last weights are not finite, so that no logit is."""
    return with_nan(tmp_path, "output.weight")


def with_nan(folder: Path, name: str) -> Path:
    path = folder / "broken.gguf"
    path.write_bytes((FAMILY_FILES / "llama.f16.v2.gguf").read_bytes())
    tensor = read_gguf(path).tensors[name]
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(b"\xff" * tensor.nbytes)  # NaN as float32 and as float16
    return path


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_a_norm_that_is_no_number_is_refused_at_load(engine, tmp_path):
    with pytest.raises(ModelFileError, match=r"broken\.gguf: output_norm\.weight .* not finite"):
        load(with_nan(tmp_path, "output_norm.weight"), LoadOptions(engine=engine))


def test_a_failed_generation_is_a_500_that_says_why(broken, tmp_path):
    with serve(tmp_path, MODEL_PATH=str(broken), PARALLEL="1", ENGINE="ctransformers") as server:
        for stream in (False, True):
            response = httpx.post(f"{server.url}/v1/completions", json={"prompt": "Hi", "stream": stream})
            error = response.json()["error"]
            assert response.status_code == 500
            assert error["type"] == "server_error"
            assert error["code"] == "generation_failed"
            assert "not finite" in error["message"]
        assert httpx.get(f"{server.url}/health").json()["slots_idle"] == 1
        assert "not finite" in server.log("model.log")
        assert "Traceback" not in server.log("console")


def test_an_error_that_nobody_foresaw_is_a_500_with_the_id_that_is_logged(caplog, monkeypatch):
    app = FastAPI()
    app.state.ggserve = app_state()
    install_error_handlers(app)
    app.add_middleware(RecordMiddleware)

    @app.get("/")
    async def fail() -> None:
        raise ZeroDivisionError("no such luck")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/")

    monkeypatch.setattr(logging.getLogger("ggserve"), "propagate", True)
    with caplog.at_level(logging.INFO, "ggserve.main"):
        response = asyncio.run(ask())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    request_id = response.headers["x-request-id"]
    assert f"{request_id} GET / 500" in caplog.text
    assert f"{request_id} failed" in caplog.text
