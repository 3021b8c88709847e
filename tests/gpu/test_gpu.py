"""llama.cpp on a GPU, with the llama-server that TEST_LLAMA_SERVER names: `make test-gpu`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ggserve.engines.llama_cpp.build import read_build
from ggserve.engines.llama_cpp.in_process import gpus
from ggserve.errors import EngineError
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer
from tests.conftest import ROOT, serve
from tests.engines.tiny_models import write_tiny_model
from tests.processes import clean_environment

NATIVE = os.environ.get("TEST_LLAMA_SERVER", "")
pytestmark = pytest.mark.skipif(
    not NATIVE or not read_build(NATIVE).devices, reason="TEST_LLAMA_SERVER names no llama-server with a GPU"
)
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
ALL = "3 of 3 layers on the GPU"  # of the tiny model: two, and the output's


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), "qwen2")


@contextmanager
def loaded(path: Path, server: str = NATIVE, **options: object) -> Iterator[GGUFModel]:
    small = {"context_length": 64, "parallel": 1, "threads": 1}
    model = GGUFModel(path, **{**small, "llama_server": server, **options})
    try:
        yield model
    finally:
        model.close()


def said(model: GGUFModel) -> str:
    return answer(model.complete([5, 6, 7, 8], GREEDY))[0]


def wrapped(folder: Path, case: str) -> str:
    """The build behind a shell script with a branch of a `case` over its arguments."""
    path = folder / "llama-server"
    path.write_text(f'#!/bin/sh\ncase "$*" in {case} esac\nexec "{NATIVE}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_auto_puts_all_layers_on_the_gpu_and_a_number_as_many_and_0_none(tiny: Path):
    with loaded(tiny) as model:
        assert model.engine_name == "llama.cpp"
        assert model.hardware.layers == ALL
        assert model.hardware.devices == read_build(NATIVE).devices
        text = said(model)
    with loaded(tiny, gpu_layers=1) as model:
        assert model.hardware.layers == "1 of 3 layers on the GPU"
        assert len(said(model)) == len(text)
    with loaded(tiny, gpu_layers=0) as model:
        assert (model.hardware.layers, model.hardware.devices, model.hardware.fallback) == (None, (), None)
        assert said(model)


def test_with_too_little_memory_fewer_layers_are_fitted(original_path: Path):
    total = re.search(r"\((\d+) MiB, \d+ MiB free", read_build(NATIVE).devices[0])
    assert total is not None
    with loaded(original_path, llama_args=f"--fit-target {total[1]}") as model:
        fitted = int(model.hardware.layers.split()[0]) if model.hardware.layers else 0
        assert fitted < 31
        assert model.hardware.fallback is None
    with loaded(original_path) as model:
        assert model.hardware.layers == "31 of 31 layers on the GPU"


def test_a_start_that_fails_is_tried_with_fewer_layers_then_without_the_gpu(tiny: Path, tmp_path: Path):
    dies = '*"--fit on"*) echo "load_tensors: offloaded 2/3 layers to GPU"; kill -SEGV $$;;'
    with loaded(tiny, wrapped(tmp_path, dies)) as model:
        assert model.hardware.layers == "1 of 3 layers on the GPU"
        assert (model.hardware.fallback or "").startswith("1 layers on the GPU: llama-server did not start")
        assert said(model)
    dies = '*"--n-gpu-layers 0"*);; *--model*) kill -SEGV $$;;'
    with loaded(tiny, wrapped(tmp_path, dies)) as model:
        assert model.hardware.layers is None
        assert (model.hardware.fallback or "").startswith("no GPU: llama-server did not start")
        assert said(model)


def test_a_number_that_does_not_fit_says_what_would(tiny: Path, tmp_path: Path):
    dies = '*"--n-gpu-layers 9"*) echo "ggml: failed to allocate buffer of size 9"; exit 1;;'
    with pytest.raises(EngineError, match=r"GPU_LAYERS=9: .*failed to allocate.* 3 layers would fit"):
        GGUFModel(tiny, context_length=64, threads=1, gpu_layers=9, llama_server=wrapped(tmp_path, dies))


def test_three_deaths_within_a_minute_end_the_use_of_the_gpu(tiny: Path):
    with loaded(tiny) as model:
        server = model.engine._transport._server  # type: ignore[union-attr]
        for _ in range(3):
            server.wait()
            process = server._process
            os.kill(process.pid, signal.SIGKILL)
            while server._process is process:
                time.sleep(0.05)
        assert said(model)
        assert "crashed 3 times within a minute on the GPU" in (model.hardware.fallback or "")
        assert model.hardware.layers is None


def test_a_llama_server_on_path_is_taken_for_its_gpu_and_told_of(tiny: Path, tmp_path: Path):
    if gpus():
        pytest.skip("xllamacpp uses the GPU itself")
    path = f"{Path(wrapped(tmp_path, '')).parent}:{os.environ['PATH']}"
    with serve(tmp_path, MODEL_PATH=str(tiny), CONTEXT_LENGTH="64", PATH=path) as server:
        health = httpx.get(f"{server.url}/health").json()
        assert health["gpu_layers"] == ALL
        assert len(health["devices"]) == len(read_build(NATIVE).devices)
        assert health["devices"][0].partition(" (")[0] in server.log("model.log")
        assert ALL in server.log("model.log")
    environment = {**clean_environment(), "PATH": path}
    for setting, used in ((), True), (("--llama-server", "off"), False):
        command = [sys.executable, "-m", "ggserve", "devices", *setting]
        told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        assert (json.dumps(health["devices"][0].partition(":")[0])[1:-1] in told) is used
