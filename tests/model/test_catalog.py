"""Names of models: of files in folders, links and a hub's cache, and as clients write them."""

import shutil
from pathlib import Path

import pytest

from ggserve.errors import UnknownModel
from ggserve.model.catalog import Catalog
from tests.conftest import FAMILY_FILES

GGUF = FAMILY_FILES / "llama.f16.v2.gguf"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(GGUF, path)
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    put(tmp_path / "plain.gguf")
    put(tmp_path / "org/name/name-Q4_K_M.gguf")
    put(tmp_path / "org/name/name-Q8_0.gguf")
    hub = tmp_path / "models--lab--Small-GGUF"
    for revision in ("1" * 40, "2" * 40):
        put(hub / "snapshots" / revision / "small.Q4_K_M.gguf")
    put(hub / "snapshots" / ("2" * 40) / "small.Q8_0.gguf")
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("2" * 40)
    put(tmp_path / ".hidden/no.gguf")
    (tmp_path / "mmproj-plain.gguf").write_bytes(b"GGUF")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nothing.gguf").symlink_to(tmp_path / "absent")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "plain.gguf")
    return Catalog(tmp_path)


def test_every_file_has_one_name(catalog: Catalog) -> None:
    assert [model.name for model in catalog.models()] == [
        "lab/Small-GGUF:Q4_K_M",
        "lab/Small-GGUF:Q8_0",
        "link",
        "org/name/name-Q4_K_M",
        "org/name/name-Q8_0",
        "plain",
    ]
    assert "2" * 40 in str(catalog.find("lab/Small-GGUF:Q4_K_M").path)


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("plain", "plain"),
        ("plain:latest", "plain"),
        ("Plain", "plain"),
        ("plain.gguf", "plain"),
        ("org/name:Q8_0", "org/name/name-Q8_0"),
        ("org/name:q4_k_m", "org/name/name-Q4_K_M"),
        ("org/name", "org/name/name-Q4_K_M"),  # the usual quantization of several
        ("name-Q8_0", "org/name/name-Q8_0"),
        ("lab/small-gguf:q8_0", "lab/Small-GGUF:Q8_0"),
        ("lab/Small-GGUF:latest", "lab/Small-GGUF:Q4_K_M"),
        ("lab/Small-GGUF", "lab/Small-GGUF:Q4_K_M"),
    ],
)
def test_clients_spell_names_in_several_ways(catalog: Catalog, spelt: str, name: str) -> None:
    assert catalog.find(spelt).name == name


def test_what_is_not_there_lists_what_is(catalog: Catalog) -> None:
    for name in ("gpt-5", "../plain", "plain:Q8_0", "no", "small.Q4_K_M"):
        with pytest.raises(UnknownModel, match="org/name/name-Q8_0"):
            catalog.find(name)


def test_files_that_vanish_or_cannot_be_read_hide_no_other(catalog: Catalog, tmp_path: Path) -> None:
    catalog.models()
    (tmp_path / "plain.gguf").unlink()
    (tmp_path / "damaged.gguf").write_bytes(GGUF.read_bytes()[:5000])
    put(tmp_path / "part-00001-of-00002.gguf")
    names = {model.name for model in catalog.models()}
    assert names == {"lab/Small-GGUF:Q4_K_M", "lab/Small-GGUF:Q8_0", "org/name/name-Q4_K_M", "org/name/name-Q8_0"}
    shutil.rmtree(tmp_path)
    assert catalog.models() == []
