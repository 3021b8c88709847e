"""The file that a name means, here and in a listing."""

from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.hub.find import find_model_file
from ggserve.hub.pick import choose, human_size, projector

NEIGHBOURS = [
    "config.json",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "training_args.bin",
    "mmproj-model-f16.gguf",
    "model.mmproj-Q8_0.gguf",
    "model.imatrix.gguf",
    ".hidden.gguf",
]


@pytest.mark.parametrize(
    "name", ["m.Q4_K_M.gguf", "llama-2-7b.ggmlv3.q4_0.bin", "ggml-model.bin", "q4/M.GGUF", "m.ggml"]
)
def test_the_only_model_file_among_others_is_chosen(name: str) -> None:
    sizes = dict.fromkeys([*NEIGHBOURS, name], 1)
    assert choose(sizes, None, "here") == name
    assert choose(sizes, name, "here") == name


@pytest.mark.parametrize("wanted", [None, "q4/m-00001-of-00003.gguf", "q4/m-00003-of-00003.gguf"])
def test_of_a_model_in_parts_the_first_is_chosen(wanted: str | None) -> None:
    parts = [f"q4/m-0000{number}-of-00003.gguf" for number in (2, 1, 3)]
    assert choose(dict.fromkeys([*NEIGHBOURS, *parts], 1), wanted, "here") == "q4/m-00001-of-00003.gguf"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("Q4_K_M", "m.Q4_K_M.gguf"),
        ("q4_k", "m.Q4_K.gguf"),
        ("Q8_0", "m-q8_0-00001-of-00002.gguf"),
        ("f16", "m-F16.gguf"),
        ("Q4", None),
        ("0", None),
        ("IQ4_XS", None),
    ],
)
def test_a_quantization_means_the_only_file_of_it(wanted: str, name: str | None) -> None:
    names = ["m.Q4_K_M.gguf", "m.Q4_K.gguf", "m-q8_0-00001-of-00002.gguf", "m-q8_0-00002-of-00002.gguf", "m-F16.gguf"]
    sizes = dict.fromkeys([*NEIGHBOURS, *names, "a-iq4_xs.gguf", "b-iq4_xs.gguf", "m-Q5_0-f32.gguf"], 1)
    if name:
        assert choose(sizes, wanted, "here") == name
    else:
        with pytest.raises(ModelFileError, match=f"there is no file {wanted} in here; it has"):
            choose(sizes, wanted, "here")


@pytest.mark.parametrize("name", ["m-00000-of-00000.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf"])
def test_odd_numbers_make_no_parts(name: str) -> None:
    assert choose({name: 1}, None, "here") == name


@pytest.mark.parametrize(
    ("names", "wanted", "error"),
    [
        ([], None, "here has no model files (.gguf, .ggml, .bin)"),
        (["pytorch_model.bin"], None, "here has no model files (.gguf, .ggml, .bin)"),
        (["pytorch_model.bin"], "pytorch_model.bin", "is not that of a model file"),
        (["a.gguf"], "b.gguf", "there is no file b.gguf in here; it has a.gguf (1 B)"),
        (
            ["m-00002-of-00003.gguf", "m-00001-of-00003.gguf"],
            None,
            "parts of a model, but m-00003-of-00003.gguf is missing",
        ),
        (["a.gguf", "m-00002-of-00002.gguf"], "m-00002-of-00002.gguf", "m-00001-of-00002.gguf is missing"),
        (
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "a.gguf"],
            None,
            "a.gguf (1 B), m-00001-of-00002.gguf (2 B)",
        ),
        (["b.gguf", "a.bin"], None, "with MODEL_FILE; it has a.bin (1 B), b.gguf (1 B)"),
    ],
)
def test_no_choice(names: list[str], wanted: str | None, error: str) -> None:
    with pytest.raises(ModelFileError) as raised:
        choose(dict.fromkeys(names, 1), wanted, "here")
    assert error in str(raised.value)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (4_081_004_224, "4.08 GB"), (2 * 10**12, "2000.00 GB")],
)
def test_sizes_are_written_as_hubs_do(nbytes: int, text: str) -> None:
    assert human_size(nbytes) == text


def test_files_and_folders_go_before_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "org" / "name" / "model.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"GGUF")
    (model.parent / "mmproj.gguf").write_bytes(b"GGUF")
    assert find_model_file("org/name").resolve() == model
    assert find_model_file("org/name", "model.gguf").resolve() == model
    assert find_model_file("org", "name/model.gguf").resolve() == model
    assert find_model_file(model) == model
    with pytest.raises(ModelFileError, match=r"there is no file b\.gguf in org/name; it has model\.gguf \(4 B\)"):
        find_model_file("org/name", "b.gguf")
    with pytest.raises(ModelFileError, match="is a file, so there is no b in it"):
        find_model_file(model, "b")


@pytest.mark.parametrize(
    ("projectors", "expected"),
    [
        (["mmproj-a-Q8_0.gguf"], "mmproj-a-Q8_0.gguf"),
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-BF16.gguf", "mmproj-F32.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-F16.gguf", "q4/m.mmproj.gguf", "q8/mmproj-F16.gguf"], "q4/m.mmproj.gguf"),
        (["q8/mmproj-F16.gguf", "mmproj.bin"], None),
    ],
)
def test_the_nearest_projector_belongs_to_a_model(projectors: list[str], expected: str | None) -> None:
    sizes = {"q4/m-Q4_K_M.gguf": 9} | {name: 2 if "32" in name else 1 for name in projectors}
    assert projector("q4/m-Q4_K_M.gguf", sizes) == expected


def test_any_part_means_its_model(tmp_path: Path) -> None:
    (tmp_path / "q4").mkdir()
    parts = [tmp_path / "q4" / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert find_model_file(parts[1]) == find_model_file(tmp_path / "q4") == parts[0]
    assert find_model_file(tmp_path, "q4/m-00002-of-00002.gguf") == parts[0]


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "./a/b",
        "../a",
        "/a/b",
        "models/x.gguf",
        "a/b/c",
        "https://hub/org/name",
        "org/name:a/b",
        "org/name:",
        "C:\\x",
        "org/a--b",
    ],
)
def test_what_names_neither_file_nor_repository(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError) as raised:
        find_model_file(name)
    assert f"there is no file or folder {name}" in str(raised.value)


def test_a_path_never_names_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="there is no file or folder org/name"):
        find_model_file(Path("org/name"))
