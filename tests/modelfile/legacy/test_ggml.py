"""The legacy readers: what they read and reject, and that no accepted file harms the C++ loaders."""

import random
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.errors import ModelFileError
from ggserve.modelfile.legacy.ggml import read_ggml
from ggserve.modelfile.legacy.layout import FAMILIES, named_family
from ggserve.tokenizer.tokenizer import Tokenizer
from tests.conftest import FAMILY_FILES, ROOT
from tests.families.blank import layout_of, write
from tests.processes import PATIENCE

HERE = FAMILY_FILES
NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 33, 40, 60, 63, 64, 65, 80, 127, 300, 1023, 2002, 65535, 2**24]
NUMBERS += [2**31 - 1, 2**32 - 1, 2**31, 0x3F800000, 0x7F800000]


class Blanks(dict[str, bytes]):
    """Files by family."""

    def __repr__(self) -> str:
        return "Blanks"  # the bytes would drown a failure's message


@pytest.fixture(scope="module")
def blanks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small sound file of each family."""
    folder = tmp_path_factory.mktemp("blanks")
    return Blanks({family: write(folder / family, family, n_layer=1).read_bytes() for family in FAMILIES})


@pytest.mark.parametrize(
    ("spelling", "family"),
    [
        ("dolly-v2", "dolly-v2"),
        ("dolly_v2", "dolly-v2"),
        ("DollyV2", "dolly-v2"),
        ("gpt_neox", "gptneox"),
        ("gpt-neox", "gptneox"),
        ("GPT-J", "gptj"),
        ("gptbigcode", "starcoder"),
        ("gpt_bigcode", "starcoder"),
        ("starcoder", "starcoder"),
    ],
)
def test_spellings_of_a_family(spelling: str, family: str) -> None:
    assert named_family(spelling) == family


def test_an_unknown_family_lists_the_choices() -> None:
    with pytest.raises(ModelFileError, match=r"MODEL_TYPE=bert: .*dolly-v2, falcon, .*starcoder"):
        named_family("bert")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_proves_its_family_or_asks(family: str, blanks: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(blanks[family])
    assert read_ggml(path, family).family == family
    shared = layout_of(family).families
    if shared == ("gpt2", "starcoder"):
        with pytest.raises(ModelFileError, match="set MODEL_TYPE: the file could be any of gpt2, starcoder"):
            read_ggml(path)
    else:
        assert read_ggml(path).family == shared[0]
    other = next(name for name in FAMILIES if name not in shared)
    with pytest.raises(ModelFileError, match=f"{other}|{layout_of(other).families[0]}"):
        read_ggml(path, other)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gptneox", "dolly-v2", "mpt", "replit", "starcoder"])
@pytest.mark.parametrize("ftype", [2, 1002, 4, 2004, -1, 99])
def test_old_and_unknown_quantizations_are_refused(
    family: str, ftype: int, blanks: dict[str, bytes], tmp_path: Path
) -> None:
    names = layout_of(family).hyperparameters("ggml")
    at = 4 + 4 * names.index("ftype")
    data = bytearray(blanks[family])
    data[at : at + 4] = struct.pack("<i", ftype)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"quantized|ftype"):
        read_ggml(path, family)


@pytest.mark.parametrize("family", ["llama", "falcon"])
@pytest.mark.parametrize(
    ("magic", "version", "ftype", "runs"),
    [
        (b"ggmf", 1, 0, True),
        (b"ggjt", 1, 1, True),
        (b"ggjt", 1, 2, False),
        (b"ggjt", 2, 2, False),
        (b"ggjt", 2, 7, False),
        (b"ggjt", 2, 8, True),
        (b"ggjt", 3, 2, True),
    ],
)
def test_versions_and_quantizations(
    family: str, magic: bytes, version: int, ftype: int, runs: bool, tmp_path: Path
) -> None:
    def make() -> None:
        read_ggml(write(tmp_path / "m", family, magic=magic, version=version, ftype=ftype), family)

    if runs:
        make()
    else:
        with pytest.raises(Exception, match=r"no longer supported|is supported"):
            make()


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_named_with_its_place(family: str, blanks: dict[str, bytes], tmp_path: Path) -> None:
    data = blanks[family]
    path = tmp_path / "model.bin"
    for length in (4, 20, 600, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"^model\.bin: .*at byte \d+"):
            read_ggml(path, family)
    last = sorted(read_sound(data, path, family).tensors.values(), key=lambda tensor: tensor.offset)[-1]
    path.write_bytes(data[: last.offset - 200])
    with pytest.raises(ModelFileError):
        read_ggml(path, family)
    path.write_bytes(data + data[len(data) - last.nbytes - 60 :])
    with pytest.raises(ModelFileError):
        read_ggml(path, family)


def read_sound(data: bytes, path: Path, family: str) -> object:
    path.write_bytes(data)
    return read_ggml(path, family)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_bytes_raise_anything_else(data: st.DataObject, blanks: dict[str, bytes], fuzz_file: Path) -> None:
    """Cut, flipped, spliced: a file is read, or refused with a ModelFileError."""
    family = data.draw(st.sampled_from(FAMILIES))
    content = bytearray(blanks[family])
    for _ in range(data.draw(st.integers(1, 4))):
        if not content:
            break
        at = min(
            len(content) - 1, data.draw(st.one_of(st.integers(0, 40), st.integers(0, 4200), st.integers(0, 10**6)))
        )
        how = data.draw(st.sampled_from(["flip", "cut", "splice", "number"]))
        if how == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del content[at : at + data.draw(st.sampled_from([1, 4, 100, len(content)]))]
        elif how == "splice":
            other = blanks[data.draw(st.sampled_from(FAMILIES))]
            content[at : at + data.draw(st.integers(0, 9))] = other[at : at + data.draw(st.integers(0, 99))]
        else:
            at -= at % 4
            content[at : at + 4] = struct.pack("<I", data.draw(st.sampled_from(NUMBERS)))
    fuzz_file.write_bytes(content)
    for model_type in (family, None):
        with suppress(ModelFileError):
            Tokenizer.from_metadata(read_ggml(fuzz_file, model_type))


@pytest.fixture(scope="module")
def fuzz_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.bin"


def mutants(data: bytes, family: str, count: int) -> list[bytes]:
    """Damaged copies, most with one number of the header or a tensor's entry changed."""
    chance = random.Random(family)
    header = 40
    found = []
    for _ in range(count):
        content = bytearray(data)
        for _ in range(chance.choice([1, 1, 2])):
            where = chance.random()
            at = 4 * chance.randrange(1, header // 4) if where < 0.6 else chance.randrange(len(content) - 4)
            if where < 0.9:
                content[at : at + 4] = struct.pack("<I", chance.choice(NUMBERS))
            else:
                content[at] ^= 1 << chance.randrange(8)
        found.append(bytes(content))
    return found


def accepted(family: str, data: bytes, folder: Path) -> list[Path]:
    """Write damaged copies; return those that pass all checks."""
    found = []
    for index, content in enumerate(mutants(data, family, 150)):
        path = folder / f"{family}-{index}.bin"
        path.write_bytes(content)
        try:
            Tokenizer.from_metadata(read_ggml(path, family))
            found.append(path)
        except ModelFileError:
            path.unlink()
    return found


def test_what_passes_never_kills_the_process(blanks: dict[str, bytes], tmp_path: Path) -> None:
    files = [(family, path) for family in FAMILIES for path in accepted(family, blanks[family], tmp_path)[:25]]
    command = [sys.executable, ROOT / "tests/families/run_files.py", *(each for pair in files for each in pair)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, (lines[-1:], ended.stderr[-500:])
    assert len(lines) == len(files)
