"""Write a GGUF file with the weights of another file: completely or not at all, with a progress bar.

The converters decide the contents of the new file. Weights are copied byte for byte, or row by row if the new file
needs the rows in another order.
"""

import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.gguf_header import MAGIC, SCALARS, Field, TensorInfo, ValueType

SOURCE_NAME = "ggserve.converted_from"
SOURCE_SIZE = "ggserve.source_size"
_CHUNK = 8 << 20
_VERSION = 3


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the new file, with its bytes at `offset` of `source`; None: all zeros.

    `rows`: the source's rows (of a vector, its elements) that make up the tensor, in order; None: all.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    nbytes: int
    source: TensorInfo | None
    rows: NDArray[np.intp] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A file to write: its header, then each tensor at its offset."""

    source: Path
    header: bytes
    tensors: list[tuple[NewTensor, int]]  # with offsets from the start of the file
    planned: GGUFFile  # the header as `read_gguf` will return it

    @property
    def size(self) -> int:
        """The size of the new file in bytes."""
        last, offset = self.tensors[-1]
        return offset + last.nbytes


def field_of(value: Any) -> Field:
    """Return a metadata entry of the type that fits a Python value. String arrays are list[bytes], other arrays numpy
    arrays."""
    if isinstance(value, list):
        return Field(ValueType.ARRAY, ValueType.STRING, value, 0, 0)
    if isinstance(value, np.ndarray):
        return Field(ValueType.ARRAY, _ITEM_TYPES[value.dtype.str], value, 0, 0)
    return Field(_TYPES[type(value)], None, value, 0, 0)


_TYPES = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32, str: ValueType.STRING}
_ITEM_TYPES = {"<i4": ValueType.INT32, "<f4": ValueType.FLOAT32}


def origin(source: Path, size: int) -> dict[str, Field]:
    """Return the metadata that records the name and size of the file that a new one was made from."""
    return {SOURCE_NAME: field_of(source.name), SOURCE_SIZE: Field(ValueType.UINT64, None, size, 0, 0)}


def encode_field(key: str, field: Field) -> bytes:
    """Return a metadata entry as bytes. Arrays of arrays are not supported."""
    head = _string(key.encode()) + struct.pack("<I", field.type)
    if field.type is ValueType.STRING:
        return head + _string(field.value.encode())
    if field.type is not ValueType.ARRAY:
        return head + SCALARS[field.type].pack(field.value)
    assert field.item_type is not None
    head += struct.pack("<IQ", field.item_type, len(field.value))
    if field.item_type is ValueType.STRING:
        return head + b"".join(map(_string, field.value))
    items: bytes = field.value.tobytes()
    return head + items


def plan_gguf(
    source: Path,
    fields: Mapping[str, Field],
    tensors: list[NewTensor],
    *,
    encoded: Mapping[str, bytes] | None = None,
    version: int = _VERSION,
    alignment: int = 32,
) -> Plan:
    """Lay out a file. `encoded`: metadata entries that are written as these bytes."""
    kept = encoded or {}
    header = MAGIC + struct.pack("<IQQ", version, len(tensors), len(fields))
    header += b"".join(kept.get(key) or encode_field(key, field) for key, field in fields.items())
    offset, relative = 0, []
    for tensor in tensors:
        relative.append(offset)
        header += _string(tensor.name.encode()) + struct.pack(
            f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape
        )
        header += struct.pack("<IQ", tensor.type, offset)
        offset += tensor.nbytes + -tensor.nbytes % alignment
    header += bytes(-len(header) % alignment)
    placed = [(tensor, len(header) + start) for tensor, start in zip(tensors, relative, strict=True)]
    infos = {t.name: TensorInfo(t.name, t.shape, t.type, place, t.nbytes) for t, place in placed}
    planned = GGUFFile(source, version, len(header) + offset, dict(fields), infos, alignment, len(header))
    return Plan(source, header, placed, planned)


def write_gguf(
    plan: Plan, target: Path, *, progress: bool = True, report: Callable[[float], object] | None = None
) -> None:
    """Write the file to `target`, completely or not at all; an existing file is replaced. `report` receives the
    fraction written, 0 to 1; `progress` shows a progress bar on stderr. Raises ModelFileError if it cannot be
    written."""
    try:
        if target.exists() and plan.source.samefile(target):
            raise ModelFileError(f"{plan.source.name}: cannot be converted to itself: choose another output file")
        free = shutil.disk_usage(target.parent).free
        if free < plan.size:
            raise ModelFileError(
                f"{target.name}: needs {plan.size >> 20} MiB of disk space, but {free >> 20} MiB are free"
            )
        with (
            plan.source.open("rb") as reader,
            _appearing(target) as writer,
            tqdm(total=plan.size, desc=plan.source.name, unit="B", unit_scale=True, disable=not progress) as bar,
        ):
            for chunk in _chunks(plan, reader):
                writer.write(chunk)
                bar.update(len(chunk))
                if report:
                    report(bar.n / plan.size)
    except OSError as error:
        raise ModelFileError(f"{target.name}: cannot be written: {error.strerror or error}") from error


def _chunks(plan: Plan, reader: BinaryIO) -> Iterator[bytes]:
    """Yield the new file, from start to end."""
    yield plan.header
    position = len(plan.header)
    for tensor, place in plan.tensors:
        yield bytes(place - position)
        position = place + tensor.nbytes
        if tensor.source is None:
            yield bytes(tensor.nbytes)
        elif tensor.rows is None:
            for start in range(0, tensor.nbytes, _CHUNK):
                yield _read(plan, reader, tensor.source.offset + start, min(_CHUNK, tensor.nbytes - start))
        else:
            row = tensor.nbytes // len(tensor.rows)
            rows = np.frombuffer(_read(plan, reader, tensor.source.offset, tensor.source.nbytes), f"V{row}")
            yield rows[tensor.rows].tobytes()


def _read(plan: Plan, reader: BinaryIO, offset: int, length: int) -> bytes:
    reader.seek(offset)
    chunk = reader.read(length)
    if len(chunk) < length:
        raise ModelFileError(f"{plan.source.name}: the file was truncated while it was read")
    return chunk


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that is renamed to `target` if the block succeeds, and removed otherwise."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with _nameless(target.parent) or part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not part.exists():
                os.link(
                    f"/proc/self/fd/{file.fileno()}", part, src_dir_fd=file.fileno()
                )  # passing src_dir_fd makes os.link follow the symlink
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _nameless(folder: Path) -> BinaryIO | None:
    """Open a file without a name, which disappears when its process ends; None if the system has no such files."""
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except (OSError, AttributeError):
        return None


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text
