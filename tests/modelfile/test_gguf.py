"""The GGUF reader agrees with the gguf package on valid files, and reports what is wrong with others."""

import errno
import itertools
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggserve.errors import ModelFileError
from ggserve.hub.default import packaged_model
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.gguf_header import ValueType
from ggserve.modelfile.tensor_types import TENSOR_TYPES
from tests.conftest import VOCABULARIES
from tests.modelfile import mutations
from tests.modelfile import tiny_gguf as tiny


def small() -> tiny.Spec:
    fields = {
        "general.architecture": (tiny.STRING, "llama"),
        "a.u8": (tiny.U8, 255),
        "a.i8": (tiny.I8, -1),
        "a.u16": (tiny.U16, 65535),
        "a.i16": (tiny.I16, -2),
        "a.i32": (tiny.I32, -3),
        "a.f32": (tiny.F32, 0.5),
        "a.bool": (tiny.BOOL, True),
        "a.u64": (tiny.U64, 2**64 - 1),
        "a.i64": (tiny.I64, -(2**63)),
        "a.f64": (tiny.F64, 0.1),
        "a.text": (tiny.STRING, b"caf\xc3\xa9 \xff"),
        "a.strings": (tiny.ARRAY, tiny.Array(tiny.STRING, [b"", b"x\xff", b"yz"])),
        "a.numbers": (tiny.ARRAY, tiny.Array(tiny.I16, [1, -2, 3])),
        "a.flags": (tiny.ARRAY, tiny.Array(tiny.BOOL, [1, 0])),
        "a.nested": (
            tiny.ARRAY,
            tiny.Array(tiny.ARRAY, [tiny.Array(tiny.U8, [1, 2]), tiny.Array(tiny.STRING, ["q"])]),
        ),
    }
    return tiny.Spec(fields, {"t.one": tiny.f32(4, 2), "t.two": tiny.f32(3)})


def bytes_file(folder: Path, content: bytes) -> Path:
    path = folder / "bad.gguf"
    path.write_bytes(content)
    return path


def test_every_value_type_is_read(tmp_path: Path) -> None:
    path = small().write(tmp_path / "small.gguf")
    gguf = read_gguf(path)
    assert [gguf.get(f"a.{name}") for name in ("u8", "i8", "u16", "i16", "i32", "f32")] == [
        255,
        -1,
        65535,
        -2,
        -3,
        0.5,
    ]
    assert [gguf.get(f"a.{name}") for name in ("u64", "i64", "f64")] == [2**64 - 1, -(2**63), 0.1]
    assert gguf.get("a.bool") is True
    assert gguf.get("a.text") == "café \ufffd"
    assert gguf.get("a.strings") == [b"", b"x\xff", b"yz"]
    assert gguf.get("a.numbers").tolist() == [1, -2, 3]
    assert gguf.get("a.flags").tolist() == [True, False]
    assert gguf.get("a.nested")[0].tolist() == [1, 2]
    assert gguf.get("a.nested")[1] == [b"q"]
    assert gguf.get("missing", 7) == 7
    assert gguf.architecture == "llama"
    assert gguf.tensors["t.two"].shape == (3,)
    assert gguf.tensors["t.two"].offset == gguf.data_offset + 32
    assert (gguf.version, gguf.alignment, gguf.size) == (3, 32, path.stat().st_size)


def test_a_fields_span_is_its_entry(tmp_path: Path) -> None:
    path = small().write(tmp_path / "small.gguf")
    content = path.read_bytes()
    for key, field in read_gguf(path).fields.items():
        assert content[field.start :].startswith(tiny.string(key))
    spans = [(field.start, field.end) for field in read_gguf(path).fields.values()]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_version_2_and_other_alignments_are_read(tmp_path: Path) -> None:
    spec = small()
    spec.version, spec.alignment = 2, 64
    spec.fields["general.alignment"] = (tiny.U32, 64)
    gguf = read_gguf(spec.write(tmp_path / "two.gguf"))
    assert (gguf.version, gguf.alignment, gguf.data_offset % 64) == (2, 64, 0)


# The package takes seconds for each of these; more of them would show nothing new.
REAL = [path for path in (packaged_model(), VOCABULARIES / "llama-spm.gguf") if path is not None and path.exists()]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_agrees_with_the_gguf_package(path: Path) -> None:
    mine, theirs = read_gguf(path), GGUFReader(path)
    assert [key for key in theirs.fields if not key.startswith("GGUF.")] == list(mine.fields)
    for key, field in mine.fields.items():
        their = theirs.fields[key]
        assert their.types[0] == field.type
        if field.item_type is ValueType.STRING:
            assert [bytes(their.parts[i]) for i in their.data] == field.value
        elif field.type is ValueType.ARRAY:
            assert np.array_equal(their.contents(), field.value)
        else:
            assert their.contents() == field.value
    assert [tensor.name for tensor in theirs.tensors] == list(mine.tensors)
    for tensor in theirs.tensors:
        info = mine.tensors[tensor.name]
        assert tuple(tensor.shape.tolist()) == info.shape
        assert (tensor.tensor_type, tensor.data_offset, tensor.n_bytes) == (
            info.type,
            info.offset,
            info.nbytes,
        )
    assert mine.alignment == theirs.alignment


def test_the_type_table_is_the_gguf_packages() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    mine = {number: (kind.name, kind.block, kind.nbytes) for number, kind in TENSOR_TYPES.items()}
    # Each gguf release knows a few types more or fewer at the end of the list.
    both = theirs.keys() & mine.keys()
    assert {number: mine[number] for number in both} == {number: theirs[number] for number in both}
    assert set(range(31)) - {4, 5} <= both


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"GG", "not a GGUF file"),
        (b"GGUF", "truncated"),
        (b"GGUF\x03\0\0\0", "truncated"),
        (b"lmgg" + bytes(60), "'ggml'"),
        (b"fmgg" + bytes(60), "'ggmf'"),
        (b"tjgg" + bytes(60), "'ggjt'"),
        (b"ccgg" + bytes(60), "'ggcc'"),
        (struct.pack("<Q", 50) + b'{"__metadata__":{}}' + bytes(60), "safetensors"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
        (b'{"error": "not found"}', "JSON"),
        (b"GGUF\x01\0\0\0" + bytes(60), "version 1"),
        (b"GGUF\0\0\0\x03" + bytes(60), "big-endian"),
        (b"GGUF\x09\0\0\0" + bytes(60), "version 9"),
        (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 2**60, 0), "tensors cannot fit"),
        (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 2**63), "entries cannot fit"),
    ],
)
def test_what_is_not_a_gguf_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as caught:
        read_gguf(bytes_file(tmp_path, content))
    assert "bad.gguf" in str(caught.value)


def test_missing_files_folders_and_odd_names_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(ModelFileError):
            read_gguf(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="regular"):
        read_gguf(tmp_path / "pipe")


def test_an_unreadable_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small().write(tmp_path / "secret.gguf")

    def refuse(*_: object, **__: object) -> None:  # as root no file mode would
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_gguf(path)


def entry(key: str, kind: int, content: bytes) -> bytes:
    return tiny.string(key) + struct.pack("<I", kind) + content


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return tiny.string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("entries", "tensors", "says"),
    [
        ([entry("k", 13, bytes(8))], [], "unknown value type 13"),
        ([entry("k", tiny.BOOL, b"\x02")], [], "boolean"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", tiny.BOOL, 2) + b"\x01\x07")], [], "boolean"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", 77, 2))], [], "unknown value type 77"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", tiny.U64, 2**61))], [], "numbers cannot fit"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", tiny.STRING, 2**61))], [], "strings cannot fit"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", tiny.ARRAY, 2**61))], [], "arrays cannot fit"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQ", tiny.ARRAY, 1) * 9)], [], "nested"),
        ([entry("k", tiny.STRING, struct.pack("<Q", 2**63) + b"x")], [], "truncated"),
        ([entry("k", tiny.ARRAY, struct.pack("<IQQ", tiny.STRING, 1, 2**62))], [], "truncated"),
        ([entry("k", tiny.U8, b"\0"), entry("k", tiny.U8, b"\0")], [], "duplicate key 'k'"),
        ([struct.pack("<Q", 1) + b"\xff" + bytes(5)], [], "not UTF-8"),
        ([], [tensor("t", (4,)), tensor("t", (4,), 0, 32)], "duplicate tensor 't'"),
        ([], [tensor("t", ())], "0 dimensions"),
        ([], [tensor("t", (1, 1, 1, 1, 1))], "5 dimensions"),
        ([], [tensor("t", (4, 0))], "empty"),
        ([], [tensor("t", (4,), 4)], "unknown type 4"),
        ([], [tensor("t", (33,), 2)], "not a multiple"),
        ([], [tensor("t", (4,), 0, 7)], "not aligned"),
        ([], [tensor("t", (2**40, 2**40, 2**40))], "truncated: tensor 't'"),
        ([], [tensor("t", (4,), 0, 2**63)], "truncated: tensor 't'"),
        ([], [tensor("t", (16,)), tensor("u", (4,), 0, 32)], "overlaps"),
        ([entry("general.alignment", tiny.U32, struct.pack("<I", 0))], [], "power of two"),
        ([entry("general.alignment", tiny.U32, struct.pack("<I", 48))], [], "power of two"),
        ([entry("general.alignment", tiny.U64, struct.pack("<Q", 32))], [], "UINT64"),
    ],
)
def test_a_broken_header_is_an_error(tmp_path: Path, entries: list[bytes], tensors: list[bytes], says: str) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    path = bytes_file(tmp_path, head + b"".join(entries + tensors) + bytes(200))
    with pytest.raises(ModelFileError, match=says) as caught:
        read_gguf(path)
    assert "at byte" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    content = small().encode()
    end = len(content) - 20  # the last tensor has 12 bytes and 20 of padding
    for length in range(0, end, 3):
        with pytest.raises(ModelFileError):
            read_gguf(bytes_file(tmp_path, content[:length]))
    assert read_gguf(bytes_file(tmp_path, content[:end]))


def test_a_header_longer_than_the_first_read_is_read(tmp_path: Path) -> None:
    texts = [bytes([i % 256]) * (i % 200) for i in range(60_000)]
    spec = tiny.Spec({"a": (tiny.ARRAY, tiny.Array(tiny.STRING, texts)), "b": (tiny.STRING, b"x" * 5_000_000)})
    gguf = read_gguf(spec.write(tmp_path / "long.gguf"))
    assert gguf.get("a") == texts
    assert len(gguf.get("b")) == 5_000_000


def read_or_refuse(path: Path) -> GGUFFile | None:
    try:
        return read_gguf(path)
    except ModelFileError as error:
        assert "\n" not in str(error)
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_damaged_files_raise_nothing_else(tmp_path: Path, chance: random.Random) -> None:
    original = small().encode()
    for _ in range(20):
        content = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 5])):
            at, length = chance.randrange(len(content)), chance.randrange(1, 9)
            how = chance.randrange(4)
            if how == 0:
                content[at] = chance.choice([0, 1, 127, 128, 255, content[at] ^ 1 << chance.randrange(8)])
            elif how == 1:
                content[at : at + length] = chance.randbytes(length)
            elif how == 2:
                del content[at : at + chance.choice([length, 100])]
            else:
                start = chance.randrange(len(content))
                content[at:at] = content[start : start + length]
            content = content or bytearray(b"G")
        gguf = read_or_refuse(bytes_file(tmp_path, bytes(content)))
        if gguf is not None:
            assert all(tensor.offset + tensor.nbytes <= gguf.size for tensor in gguf.tensors.values())


def test_damaged_models_raise_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(7)
    bases = mutations.bases()
    for round_ in range(400):
        read_or_refuse(bytes_file(tmp_path, mutations.mutant(bases[round_ % len(bases)], chance)))
