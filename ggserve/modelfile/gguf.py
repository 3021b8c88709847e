"""GGUF files: metadata and tensor positions. Never reads weights.

A split model, as made by `llama-gguf-split`, is read as one file.
"""

import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf_header import Field, HeaderReader, TensorInfo
from ggserve.modelfile.split_files import part_names

# A file's part number, from 0, the number of parts, and the number of tensors in all parts.
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass
class GGUFFile:
    """A checked header. Numeric arrays are numpy arrays, string arrays list[bytes], nested arrays lists.

    For a split model, this is the first file's header with the tensors of all parts, and `size` is the total.
    """

    path: Path
    version: int
    size: int
    fields: dict[str, Field]
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int

    @property
    def paths(self) -> list[Path]:
        """See ModelFile.paths."""
        names = part_names(self.path.name) if self.get(_COUNT, 1) > 1 else [self.path.name]
        return [self.path.with_name(name) for name in names]

    @property
    def format(self) -> str:
        """See ModelFile.format."""
        return f"GGUF version {self.version}"

    def metadata_keys(self) -> Iterable[str]:
        """See ModelFile.metadata_keys."""
        return self.fields

    def get(self, key: str, default: Any = None, /) -> Any:
        """See ModelFile.get."""
        field = self.fields.get(key)
        return default if field is None else field.value

    @property
    def architecture(self) -> str:
        """`general.architecture`, or "" if it is missing or not a string."""
        value = self.get("general.architecture")
        return value if isinstance(value, str) else ""


def read_gguf(path: str | Path) -> GGUFFile:
    """Read the header of the GGUF file at `path`; for a split model, the first part. Raises ModelFileError unless the
    file is valid and complete."""
    first = _read(Path(path))
    count = first.get(_COUNT, 1)
    if not isinstance(count, int):
        raise ModelFileError(f"{first.path.name}: {_COUNT} is not an integer")
    return _joined(first, count) if count > 1 else first


def _read(path: Path) -> GGUFFile:
    with opened(path) as file:
        header = HeaderReader(path, file).read()
    return GGUFFile(path, **vars(header))


def _joined(first: GGUFFile, count: int) -> GGUFFile:
    """Return the whole model whose first part is `first`. As strict as llama.cpp, which finds the other parts by
    name."""
    name = first.path.name
    names = part_names(name)
    if len(names) != count:
        raise ModelFileError(f"{name}: is one of {count} parts by its metadata, but not by its name")
    if name != names[0]:
        raise ModelFileError(f"{name}: is one of the {count} parts of a split model; use the first, {names[0]}")
    whole = replace(first, size=0, tensors={})
    for number, each in enumerate(names):
        part = _read(first.path.with_name(each)) if number else first
        if (part.get(_NUMBER), part.get(_COUNT)) != (number, count):
            raise ModelFileError(f"{each}: is not part {number + 1} of {count} by its metadata")
        if both := whole.tensors.keys() & part.tensors.keys():
            raise ModelFileError(f"{each}: tensor {min(both)!r} is also in another part")
        whole.size += part.size
        whole.tensors |= {tensor.name: replace(tensor, part=number) for tensor in part.tensors.values()}
    if first.get(_TENSORS, len(whole.tensors)) != len(whole.tensors):
        raise ModelFileError(f"{name}: its {count} parts have {len(whole.tensors)} tensors, not {first.get(_TENSORS)}")
    return whole


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """Open the regular file at `path` for reading. Every failure becomes a ModelFileError."""
    if "\0" in str(path):
        raise ModelFileError(f"{path.name!r}: no such file")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"{path.name}: its path is not UTF-8, which the engines require: rename it") from None
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelFileError(f"{path.name}: is a folder, not a model file")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path.name}: is not a regular file")
        with path.open("rb", buffering=0) as file:
            yield file
    except FileNotFoundError:
        raise ModelFileError(f"{path.name}: no such file ({path})") from None
    except OSError as error:
        raise ModelFileError(f"{path.name}: cannot be read: {error.strerror or error}") from error
