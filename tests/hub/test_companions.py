"""A projector belongs to a model by its width, and among several models by its name."""

import shutil
from pathlib import Path

import pytest

from ggserve.hub.companions import projector_beside
from ggserve.modelfile.gguf import read_gguf
from tests.conftest import FAMILY_FILES
from tests.engines.tiny_companions import write_projector
from tests.engines.tiny_models import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny = write_tiny_model(tmp_path, "qwen2")
    for name in ("vila-7b-Q4_K_M.gguf", "vila-7b-Q8_0.gguf", "qwen-7b-Q4_K_M.gguf"):
        shutil.copy(tiny, tmp_path / name)
    tiny.unlink()
    return tmp_path


def of(folder: Path, name: str) -> str | None:
    found = projector_beside(read_gguf(folder / name))
    return found.name if found else None


def test_of_several_models_the_named_one_gets_the_projector(folder: Path) -> None:
    write_projector(folder / "mmproj-vila-7b-F16.gguf")
    assert of(folder, "vila-7b-Q4_K_M.gguf") == of(folder, "vila-7b-Q8_0.gguf") == "mmproj-vila-7b-F16.gguf"
    assert of(folder, "qwen-7b-Q4_K_M.gguf") is None
    write_projector(folder / "mmproj-qwen-7b-F16.gguf")
    assert of(folder, "qwen-7b-Q4_K_M.gguf") == "mmproj-qwen-7b-F16.gguf"


def test_a_projector_without_a_name_of_a_model_belongs_to_none_of_several(folder: Path) -> None:
    write_projector(folder / "mmproj-F16.gguf")
    assert of(folder, "vila-7b-Q4_K_M.gguf") is None
    (folder / "qwen-7b-Q4_K_M.gguf").unlink()
    assert of(folder, "vila-7b-Q4_K_M.gguf") == "mmproj-F16.gguf"  # what is left are quantizations of one model


def test_a_model_of_another_width_gets_none(tmp_path: Path) -> None:
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", tmp_path / "m.gguf")
    write_projector(tmp_path / "mmproj-m.gguf")
    assert of(tmp_path, "m.gguf") is None


def test_a_damaged_projector_belongs_to_no_model(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path, "qwen2")
    (tmp_path / "mmproj-tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    assert projector_beside(read_gguf(model)) is None
