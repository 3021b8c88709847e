"""The header of a GGUF file, read field by field and checked.

Every count, length and extent is checked against the file's size before memory is allocated for it, because the C
loaders that open the file later do not check. Format: the GGUF specification of the ggml project, versions 2 and 3,
little-endian.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggserve.errors import ModelFileError
from ggserve.modelfile.tensor_types import TENSOR_TYPES

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_HEADER_LIMIT = 128 << 20
"""Bytes. The largest vocabularies in use (260,000 tokens, 500,000 merges) take about 20 MB."""

_FIRST_READ = 4 << 20
_MAX_NESTING = 4


class ValueType(IntEnum):
    """The types of metadata values, numbered as in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_VALUE_TYPES = {int(t): t for t in ValueType}

SCALARS = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<B"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}
_U32 = SCALARS[ValueType.UINT32]
_U64 = SCALARS[ValueType.UINT64]


LEGACY_MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"ccgg": "ggcc"}
"""The first four bytes of older formats: the format's name as a little-endian number."""
_ADAPTER = b"algg"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order (ne[0], the row length, first). `offset` counts from the start of the file
    with number `part`."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int
    part: int = 0

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type].name


@dataclass(frozen=True, slots=True)
class Field:
    """One metadata entry. Bytes `start` to `end` of the file contain its key, type and value."""

    type: ValueType
    item_type: ValueType | None
    value: Any
    start: int
    end: int


@dataclass(frozen=True)
class GGUFHeader:
    """The contents of a header, and where the tensor data begins."""

    version: int
    size: int  # bytes of the file
    fields: dict[str, Field]
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int


class HeaderReader:
    """A cursor over the start of a file. It reads more of the file as the header needs it."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.file = file
        self.size = file.seek(0, 2)
        file.seek(0)
        self.buffer = b""
        self.position = 0

    def error(self, problem: str, at: int | None = None) -> ModelFileError:
        return ModelFileError(f"{self.path.name}: {problem} (at byte {self.position if at is None else at})")

    def need(self, end: int) -> bytes:
        """Return the buffer with at least the first `end` bytes of the file."""
        if end > self.size:
            raise self.error(f"truncated: the header extends to byte {end}, but the file has {self.size} bytes")
        if end > _HEADER_LIMIT:
            raise self.error(f"the header is longer than {_HEADER_LIMIT >> 20} MiB: the file is damaged")
        if end > len(self.buffer):
            wanted = min(max(end, 2 * len(self.buffer), _FIRST_READ), self.size, _HEADER_LIMIT)
            while len(self.buffer) < wanted:
                more = self.file.read(wanted - len(self.buffer))
                if not more:
                    raise self.error("the file was truncated while it was read")
                self.buffer += more
        return self.buffer

    def scalar(self, layout: struct.Struct) -> Any:
        end = self.position + layout.size
        value = layout.unpack_from(self.need(end), self.position)[0]
        self.position = end
        return value

    def take(self, length: int) -> bytes:
        end = self.position + length
        taken = self.need(end)[self.position : end]
        self.position = end
        return taken

    def string(self) -> bytes:
        return self.take(self.scalar(_U64))

    def strings(self, count: int) -> list[bytes]:
        # The hot loop: a vocabulary has 50,000 to 500,000 strings.
        items: list[bytes] = []
        append: Callable[[bytes], None] = items.append
        unpack = _U64.unpack_from
        buffer, position = self.buffer, self.position
        limit = len(buffer)
        for _ in range(count):
            start = position + 8
            if start > limit:
                self.position = position
                buffer = self.need(start)
                limit = len(buffer)
            end = start + unpack(buffer, position)[0]
            if end > limit:
                self.position = position
                buffer = self.need(end)
                limit = len(buffer)
            append(buffer[start:end])
            position = end
        self.position = position
        return items

    def count(self, what: str, smallest: int) -> int:
        """Read a 64-bit count of items of at least `smallest` bytes each, and check that they fit into the file."""
        at = self.position
        count: int = self.scalar(_U64)
        if count * smallest > min(self.size, _HEADER_LIMIT) - self.position:
            raise self.error(f"{count} {what} cannot fit: truncated or damaged", at)
        return count

    def value_type(self) -> ValueType:
        at = self.position
        number = self.scalar(_U32)
        if number not in _VALUE_TYPES:
            raise self.error(f"unknown value type {number}", at)
        return _VALUE_TYPES[number]

    def value(self, kind: ValueType) -> Any:
        if kind is ValueType.STRING:
            return self.string().decode("utf-8", errors="replace")
        at = self.position
        value = self.scalar(SCALARS[kind])
        if kind is ValueType.BOOL:
            if value > 1:
                raise self.error(f"boolean value {value} is neither 0 nor 1", at)
            return bool(value)
        return value

    def array(self, depth: int = 1) -> tuple[ValueType, Any]:
        kind = self.value_type()
        if kind is ValueType.STRING:
            return kind, self.strings(self.count("strings", 8))
        if kind is ValueType.ARRAY:
            if depth == _MAX_NESTING:
                raise self.error(f"arrays nested deeper than {_MAX_NESTING}")
            return kind, [self.array(depth + 1)[1] for _ in range(self.count("arrays", 12))]
        layout = SCALARS[kind]
        count = self.count("numbers", layout.size)
        at = self.position
        dtype = np.dtype(np.uint8 if kind is ValueType.BOOL else layout.format)
        numbers: npt.NDArray[Any] = np.frombuffer(self.take(count * layout.size), dtype)
        if kind is ValueType.BOOL:
            if count and numbers.max() > 1:
                raise self.error("boolean array with a value that is neither 0 nor 1", at)
            numbers = numbers.astype(np.bool_)
        return kind, numbers

    def name(self, what: str) -> str:
        at = self.position
        raw = self.string()
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} {raw[:80]!r} is not UTF-8", at) from None

    def field(self) -> tuple[str, Field]:
        start = self.position
        key = self.name("key")
        kind = self.value_type()
        item_kind, value = self.array() if kind is ValueType.ARRAY else (None, self.value(kind))
        return key, Field(kind, item_kind, value, start, self.position)

    def tensor(self) -> TensorInfo:
        """Read one tensor's entry. Its offset counts from the data section, which starts after the last entry."""
        at = self.position
        name = self.name("tensor name")
        n_dims = self.scalar(_U32)
        if not 1 <= n_dims <= 4:
            raise self.error(f"tensor {name!r} has {n_dims} dimensions", at)
        shape = tuple(self.scalar(_U64) for _ in range(n_dims))
        kind = self.scalar(_U32)
        if kind not in TENSOR_TYPES:
            raise self.error(f"tensor {name!r} has the unknown type {kind}", at)
        layout = TENSOR_TYPES[kind]
        if 0 in shape:
            raise self.error(f"tensor {name!r} of shape {list(shape)} is empty", at)
        if shape[0] % layout.block:
            raise self.error(
                f"tensor {name!r}: row length {shape[0]} is not a multiple of {layout.name}'s {layout.block}", at
            )
        nbytes = layout.nbytes * (shape[0] // layout.block)
        for length in shape[1:]:
            nbytes *= length
        return TensorInfo(name, shape, kind, self.scalar(_U64), nbytes)

    def start(self) -> int:
        """Check the magic number and return the version."""
        if not self.size:
            raise ModelFileError(f"{self.path.name}: is empty (0 bytes)")
        head = self.need(min(self.size, 64))
        if head[:4] != MAGIC:
            raise self.error(f"not a GGUF file: {_looks_like(head)}")
        self.position = 4
        version: int = self.scalar(_U32)
        if version == 1:
            raise self.error("GGUF version 1 is no longer supported: convert the model again", 4)
        if version & 0xFFFF == 0 and version:
            raise self.error("big-endian GGUF is not supported: use a little-endian file", 4)
        if version not in _VERSIONS:
            raise self.error(f"GGUF version {version} is unknown", 4)
        return version

    def read(self) -> GGUFHeader:
        """Read the whole header. Raises ModelFileError."""
        version = self.start()
        n_tensors = self.count("tensors", 32)
        n_fields = self.count("metadata entries", 13)
        fields: dict[str, Field] = {}
        for _ in range(n_fields):
            key, field = self.field()
            if key in fields:
                raise self.error(f"duplicate key {key!r}", field.start)
            fields[key] = field
        relative: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            at = self.position
            tensor = self.tensor()
            if tensor.name in relative:
                raise self.error(f"duplicate tensor {tensor.name!r}", at)
            relative[tensor.name] = tensor
        alignment = self.alignment(fields)
        data_offset = -(-self.position // alignment) * alignment
        tensors = self.placed(relative, alignment, data_offset)
        return GGUFHeader(version, self.size, fields, tensors, alignment, data_offset)

    def alignment(self, fields: dict[str, Field]) -> int:
        field = fields.get("general.alignment")
        if field is None:
            return _DEFAULT_ALIGNMENT
        if field.type is not ValueType.UINT32:
            raise self.error(f"general.alignment is of type {field.type.name}, not UINT32", field.start)
        alignment: int = field.value
        if alignment == 0 or alignment & (alignment - 1):
            raise self.error(f"general.alignment {alignment} is not a power of two", field.start)
        return alignment

    def placed(self, tensors: dict[str, TensorInfo], alignment: int, data_offset: int) -> dict[str, TensorInfo]:
        """Return the tensors with absolute offsets. Raises ModelFileError if one lies outside the file or overlaps
        another."""
        absolute: dict[str, TensorInfo] = {}
        for tensor in tensors.values():
            offset = data_offset + tensor.offset
            if tensor.offset % alignment:
                raise self.error(f"tensor {tensor.name!r} is not aligned to {alignment} bytes", offset)
            if offset + tensor.nbytes > self.size:
                problem = f"truncated: tensor {tensor.name!r} ends at byte {offset + tensor.nbytes}"
                raise self.error(f"{problem}, but the file has {self.size} bytes", offset)
            absolute[tensor.name] = TensorInfo(tensor.name, tensor.shape, tensor.type, offset, tensor.nbytes)
        end, before = 0, ""
        for tensor in sorted(absolute.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise self.error(f"tensor {tensor.name!r} overlaps {before!r}", tensor.offset)
            end, before = tensor.offset + tensor.nbytes, tensor.name
        return absolute


def _looks_like(head: bytes) -> str:
    """Describe a file that is not GGUF, from its first 64 bytes."""
    text = head.lstrip().lower()
    if head[:4] in LEGACY_MAGICS:
        return f"it is a legacy GGML file ({LEGACY_MAGICS[head[:4]]!r})"
    if head[:4] == _ADAPTER:
        return "it is a legacy GGML adapter ('ggla')"
    if len(head) >= 10 and head[8:10] == b'{"':
        return "it looks like a safetensors file"
    if head.startswith(b"PK\x03\x04"):
        return "it looks like a zip archive or a PyTorch checkpoint"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it looks like a web page: the download failed"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: the file itself was not downloaded"
    if text.startswith(b"{"):
        return "it looks like JSON"
    return f"it starts with {head[:4]!r}"
