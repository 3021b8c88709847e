"""A legacy file's GGUF is made once, and again when its source has changed."""

import os
import shutil
from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.hub.converted import as_gguf
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.legacy.ggml import GGMLFile, read_ggml
from tests.conftest import FAMILY_FILES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copy2(FAMILY_FILES / "mpt.f32.bin", tmp_path / "old.bin"))


def made(file: GGMLFile, folder: Path, template: str | None = None) -> int:
    """When the conversion was made."""
    return as_gguf(file, folder, template).stat().st_mtime_ns


def test_it_is_made_once(source: Path, tmp_path: Path) -> None:
    folder, parts = tmp_path / "new" / "models", []
    path = as_gguf(read_ggml(source), folder, None, parts.append)
    assert path == folder / "old.from-ggml.gguf"
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert os.listdir(folder) == [path.name]
    before = path.stat()
    after = as_gguf(read_ggml(source), folder, None).stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)  # which any change changes


def test_what_changed_is_made_anew(source: Path, tmp_path: Path) -> None:
    first = made(read_ggml(source), tmp_path)
    assert made(read_ggml(source), tmp_path, "{{ messages }}") != first
    assert read_gguf(tmp_path / "old.from-ggml.gguf").get("tokenizer.chat_template") == "{{ messages }}"
    first = made(read_ggml(source), tmp_path)
    later = (tmp_path / "old.from-ggml.gguf").stat().st_mtime + 10
    os.utime(source, (later, later))
    assert made(read_ggml(source), tmp_path) != first


def test_another_file_of_the_same_name_is_not_taken_for_it(source: Path, tmp_path: Path) -> None:
    first = made(read_ggml(source), tmp_path)
    other = tmp_path / "other" / source.name
    other.parent.mkdir()
    content = bytearray(source.read_bytes())
    content[-1] ^= 1  # the same size and age, other weights
    other.write_bytes(content)
    os.utime(other, (0, 0))
    assert made(read_ggml(other), tmp_path) != first


def test_a_damaged_conversion_is_made_anew(source: Path, tmp_path: Path) -> None:
    path = as_gguf(read_ggml(source), tmp_path, None)
    path.write_bytes(path.read_bytes()[:1000])
    as_gguf(read_ggml(source), tmp_path, None)
    assert read_gguf(path).architecture == "mpt"


def test_a_folder_that_cannot_be_written_is_one_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match=r"^models: cannot be created: Not a directory$"):
        as_gguf(read_ggml(source), tmp_path / "file" / "models", None)


def test_a_full_disk_is_one_line_and_nothing_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ModelFileError, match="of disk space, but 0 MiB are free"):
        as_gguf(read_ggml(source), tmp_path / "models", None)
    assert os.listdir(tmp_path / "models") == []
