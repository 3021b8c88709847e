"""Read a legacy GGML file (2023, before GGUF): hyperparameters, vocabulary, and tensor positions.

ctransformers' loaders of these formats check almost nothing: a missing tensor stays uninitialized memory, a wrong
length is allocated as it is, and a failed load frees an invalid pointer. So a file passes only if its loader will find
exactly what it reads. `layouts` describes what each family's loader reads; `tokens` turns a vocabulary into tokenizer
metadata.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import opened
from ggserve.modelfile.gguf_header import LEGACY_MAGICS, TensorInfo
from ggserve.modelfile.legacy.layout import FAMILIES, Header, Layout, UnfitHeader, named_family, row_length
from ggserve.modelfile.legacy.layouts import LAYOUTS, family_of
from ggserve.modelfile.legacy.tokens import Token, tokenizer_metadata
from ggserve.modelfile.tensor_types import TENSOR_TYPES

_HEADER_LIMIT = 128 << 20
_VOCABULARY_WINDOW = 4 << 20
_TENSOR_WINDOW = 4096
_LONGEST_TOKEN = 1 << 16  # bytes; the longest known token has about 512
_LONGEST_NAME = 256
_ALIGNMENT = 32
_I32 = struct.Struct("<i")
_F32 = struct.Struct("<f")


@dataclass
class GGMLFile:
    """A checked file. `family` is ctransformers' model type; `get` takes the keys that a GGUF file would have."""

    path: Path
    size: int
    kind: str  # magic and version, such as "ggjt v3"
    family: str
    header: Header
    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any] = field(repr=False)

    def metadata_keys(self) -> Iterable[str]:
        """See ModelFile.metadata_keys."""
        return self.metadata

    def get(self, key: str, default: Any = None, /) -> Any:
        """See ModelFile.get."""
        return self.metadata.get(key, default)

    @property
    def paths(self) -> list[Path]:
        """See ModelFile.paths."""
        return [self.path]

    @property
    def format(self) -> str:
        """See ModelFile.format."""
        return f"legacy GGML, {self.kind}"

    @property
    def architecture(self) -> str:
        """The family."""
        return self.family


def is_ggml(path: str | Path) -> bool:
    """Return whether the file starts with the magic number of a legacy GGML file."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in LEGACY_MAGICS
    except OSError:
        return False


def read_ggml(path: str | Path, model_type: str | None = None) -> GGMLFile:
    """Read the legacy file at `path` as the family `model_type`, by default as the family that its content proves.

    Raises ModelFileError unless the file is valid, complete and of a known family.
    """
    path = Path(path)
    wanted = None if model_type is None else named_family(model_type)
    with opened(path) as file:
        reader = _Reader(path, file)
        name, version = reader.start()
        layouts = [layout for layout in LAYOUTS if (name, version) in layout.formats]
        if wanted is not None:
            layouts = [layout for layout in layouts if wanted in layout.families]
        if not layouts:
            kind = name if version is None else f"{name} version {version}"
            families = f"the family {wanted}" if wanted else "any family"
            raise reader.error(f"ctransformers cannot read {kind} for {families}", 0)
        readings = [_try_layout(reader, layout, name, version) for layout in layouts]
        reader.reading_as = ""
        bodies = [found for found in readings if isinstance(found, _Body)]
        if len(bodies) != 1:
            raise _undecided(reader, readings)
        body = bodies[0]
        family = wanted or family_of(body.layout, [token.text for token in body.tokens])
        if family is None:
            raise _undecided(reader, [body])
        metadata = {
            "general.architecture": family,
            **{f"{family}.{key}": value for key, value in body.header.metadata().items()},
            **tokenizer_metadata(family, body.tokens, body.merges),
        }
        kind = name if version is None else f"{name} v{version}"
        return GGMLFile(path, reader.size, kind, family, body.header, body.tensors, metadata)


class _Misread(ModelFileError):
    """The file is invalid when read with a certain layout. `at`: the byte where it failed."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


@dataclass
class _Body:
    layout: Layout
    header: Header
    tokens: list[Token]
    merges: list[tuple[bytes, bytes]] | None
    tensors: dict[str, TensorInfo]


def _undecided(reader: "_Reader", readings: list["_Body | _Misread"]) -> ModelFileError:
    families = [family for found in readings if isinstance(found, _Body) for family in found.layout.families]
    if families:
        return reader.error(f"set MODEL_TYPE: the file could be any of {', '.join(families)}", 0)
    errors = [found for found in readings if isinstance(found, _Misread)]
    if len(errors) > 1 and max(error.at for error in errors) < 256:
        return reader.error(f"unknown family: set MODEL_TYPE to one of {', '.join(FAMILIES)} for details", 0)
    return max(errors, key=lambda error: error.at)


class _Reader:
    """A cursor over a file, with a buffer. Every read is checked against the file's size."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self.file = file
        self.size = file.seek(0, 2)
        self.position = 0
        self.window = _TENSOR_WINDOW
        self.reading_as = ""
        self._start = 0
        self._buffer = b""

    def error(self, problem: str, at: int | None = None) -> _Misread:
        at = self.position if at is None else at
        return _Misread(f"{self.path.name}: {self.reading_as}{problem} (at byte {at})", at)

    def take(self, length: int, what: str) -> bytes:
        """Return the next `length` bytes."""
        end = self.position + length
        if end > self.size:
            raise self.error(f"truncated: {what} extends to byte {end}, but the file has {self.size} bytes")
        if not self._start <= self.position <= end <= self._start + len(self._buffer):
            self.file.seek(self.position)
            self._start, self._buffer = self.position, self.file.read(max(length, self.window))
            if len(self._buffer) < length:
                raise self.error("the file was truncated while it was read")
        offset = self.position - self._start
        self.position = end
        return self._buffer[offset : offset + length]

    def number(self, what: str) -> int:
        """Return a 32-bit number, signed as in the loader."""
        number: int = _I32.unpack(self.take(4, what))[0]
        return number

    def real(self, what: str) -> float:
        number: float = _F32.unpack(self.take(4, what))[0]
        return number

    def start(self) -> tuple[str, int | None]:
        """Check the magic number. Return the format's name and version; the version is None for `ggml`."""
        name = LEGACY_MAGICS.get(self.take(4, "the magic"))
        if name is None:
            raise self.error("not a legacy GGML file", 0)
        return name, None if name == "ggml" else self.number("the version")

    def tokens(self, count: int, *, scored: bool) -> list[Token]:
        self.window = _VOCABULARY_WINDOW
        tail = 4 if scored else 0
        if count * (4 + tail) > min(self.size, _HEADER_LIMIT) - self.position:
            raise self.error(f"{count} tokens cannot fit: truncated or damaged")
        found: list[Token] = []
        while len(found) < count:
            found += self._whole_tokens(count - len(found), tail)
            if len(found) < count:  # one that crosses the window's edge
                found.append(self._token(len(found), tail))
        return found

    def _token(self, index: int, tail: int) -> Token:
        length = self.number("the vocabulary")
        if not 0 <= length <= _LONGEST_TOKEN:
            raise self.error(f"token {index} has {length} bytes", self.position - 4)
        return Token(self.take(length, "the vocabulary"), self.real("the vocabulary") if tail else 0.0)

    def _whole_tokens(self, count: int, tail: int) -> list[Token]:
        """Read up to `count` tokens that lie in the window. This is the hot loop: a vocabulary has about 50,000."""
        found: list[Token] = []
        append, unpack, score = found.append, _I32.unpack_from, _F32.unpack_from
        buffer, offset = self._buffer, self.position - self._start
        last = len(buffer) - 4
        while len(found) < count and 0 <= offset <= last:
            start = offset + 4
            end = start + unpack(buffer, offset)[0]
            if not start <= end <= len(buffer) - tail:
                break
            append(Token(buffer[start:end], score(buffer, end)[0] if tail else 0.0))
            offset = end + tail
        self.position = self._start + offset
        return found

    def merges(self, count: int) -> list[tuple[bytes, bytes]]:
        if not 0 <= count * 8 <= min(self.size, _HEADER_LIMIT) - self.position:
            raise self.error(f"{count} merges cannot fit: truncated or damaged")
        halves = self.tokens(2 * count, scored=False)
        return [(halves[i].text, halves[i + 1].text) for i in range(0, 2 * count, 2)]

    def tensors(self, *, aligned: bool) -> Iterator[tuple[int, TensorInfo]]:
        """Yield every tensor up to the end of the file, with the offset of its entry. Extents are checked, names are
        not."""
        self.window = _TENSOR_WINDOW
        while self.position < self.size:
            at = self.position
            n_dims, length, kind = (self.number("a tensor's entry") for _ in range(3))
            if not 1 <= n_dims <= 2:
                raise self.error(f"a tensor has {n_dims} dimensions", at)
            if not 1 <= length <= _LONGEST_NAME:
                raise self.error(f"a tensor's name has {length} bytes", at)
            if kind not in TENSOR_TYPES:
                raise self.error(f"a tensor has the unknown type {kind}", at)
            shape = tuple(self.number("a tensor's entry") for _ in range(n_dims))
            name = self.take(length, "a tensor's name").decode("utf-8", "backslashreplace")
            layout = TENSOR_TYPES[kind]
            if min(shape) < 1 or shape[0] % layout.block:
                raise self.error(
                    f"tensor {name!r}: rows of {shape[0]} {layout.name} weights in shape {list(shape)}", at
                )
            if aligned:
                self.position += -self.position % _ALIGNMENT
            nbytes = row_length(shape, kind)
            if self.position + nbytes > self.size:
                end = self.position + nbytes
                raise self.error(
                    f"truncated: tensor {name!r} ends at byte {end}, but the file has {self.size} bytes", at
                )
            yield at, TensorInfo(name, shape, kind, self.position, nbytes)
            self.position += nbytes


def _try_layout(reader: _Reader, layout: Layout, name: str, version: int | None) -> _Body | _Misread:
    try:
        return _read_body(reader, layout, name, version)
    except _Misread as error:
        return error


def _read_body(reader: _Reader, layout: Layout, name: str, version: int | None) -> _Body:
    """Read everything after the magic number and version, as the loader of `layout` would."""
    reader.reading_as = f"not a valid {layout.families[0]} file: "
    reader.position = 4 if version is None else 8
    values: dict[str, Any] = {}
    for key in layout.hyperparameters(name):
        values[key] = reader.real(key) if key in layout.float_keys else reader.number(key)
    header = _fitting(reader, lambda: layout.header(values, name, version))
    n_tokens = header.n_tokens
    if layout.counts_tokens and (count := reader.number("the vocabulary's size")) != n_tokens:
        raise reader.error(f"the vocabulary has {count} tokens, but the header says {n_tokens}", reader.position - 4)
    tokens = reader.tokens(n_tokens, scored=layout.scored(name))
    _fitting(reader, lambda: layout.check_tokens(header, [token.text for token in tokens]))
    merges = reader.merges(reader.number("the number of merges")) if name == "ggcc" else None
    tensors: dict[str, TensorInfo] = {}
    start = reader.position
    for at, tensor in reader.tensors(aligned=name in ("ggjt", "ggcc")):
        if tensor.name in tensors:
            raise reader.error(f"duplicate tensor {tensor.name!r}", at)
        tensors[tensor.name] = tensor
        if len(tensors) == 1 and not layout.knows(tensor.name):
            raise reader.error(f"tensor {tensor.name!r} does not belong to this family", at)
    header = layout.settled(header, [token.text for token in tokens], tensors)
    _fitting(reader, lambda: layout.check_tensors(header, tensors), start)
    return _Body(layout, header, tokens[: header.n_vocab], merges, tensors)


def _fitting(reader: _Reader, check: Callable[[], Any], at: int | None = None) -> Any:
    """Run a check of what was read, and report the position where it failed."""
    try:
        return check()
    except UnfitHeader as error:
        raise reader.error(str(error), error.at or at) from None
