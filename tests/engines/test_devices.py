"""`ggserve devices`, and NVIDIA's driver, which is asked before a library for its GPUs is loaded."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers import context
from ggserve.engines.ctransformers.context import Context, cuda_devices, cuda_loads
from ggserve.errors import EngineError
from tests.conftest import ROOT
from tests.llama_server import LIST_A_GPU, launcher
from tests.processes import clean_environment


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggserve", "devices", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)


def test_devices_lists_each_engine_and_build(tmp_path: Path):
    server = launcher(tmp_path, before=LIST_A_GPU)
    told = run("--llama-server", str(server))
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("ctransformers 0.2.")
    assert lines[2].startswith("llama.cpp: xllamacpp ")
    assert f"({server}), used (LLAMA_SERVER={server})" in lines[4]
    assert lines[5] == "  Fake0: A GPU (8 MiB, 8 MiB free)"
    failed = run("--llama-server", str(tmp_path / "absent"))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("ggserve: LLAMA_SERVER=")


def test_no_library_for_gpus_is_loaded_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    loaded: list[str] = []

    def load(name: str) -> None:
        loaded.append(name)
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cuda_devices() == 0
    assert not cuda_loads()
    with pytest.raises(EngineError, match="GPU_LAYERS=5 needs an NVIDIA GPU"):
        Context(tmp_path / "x.gguf", "gguf", EngineOptions(context_length=8, gpu_layers=5)).open()
    assert set(loaded) <= {"libcuda.so.1", "nvcuda.dll"}


@pytest.mark.parametrize(("init", "count"), [(100, 0), (0, 0)])
def test_a_driver_without_a_gpu_counts_as_none(monkeypatch: pytest.MonkeyPatch, init: int, count: int):
    class Driver:
        def __init__(self, name: str) -> None: ...

        def cuInit(self, flags: int) -> int:
            return init

        def cuDeviceGetCount(self, found: object) -> int:
            return 0

    monkeypatch.setattr(context.ctypes, "CDLL", Driver)
    assert cuda_devices() == count
