"""Rewrites a llama GGUF file into one that ctransformers loads: the same model, in the form of autumn 2023.

Byte-level BPE tokens become raw bytes, scores and token types are added where missing, linear rope scaling
gets the key that ctransformers reads, and a tied output gets its own copy of the embedding. All else, every
weight included, is kept byte for byte.
"""

import argparse
import os
import secrets
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from modelfile.accepts.ctransformers import ctransformers_objection, rope_scale
from modelfile.errors import ModelFileError
from modelfile.gguf import MAGIC, Field, GGUFFile, TensorInfo, ValueType, read_gguf
from modelfile.token_spelling import TokenType, has_raw_tokens, plain_tokens, to_raw

SOURCE_NAME = "ggserve.converted_from"
SOURCE_SIZE = "ggserve.source_size"
_CHUNK = 8 << 20
_TOKENS = "tokenizer.ggml.tokens"
_SCORES = "tokenizer.ggml.scores"
_TYPES = "tokenizer.ggml.token_type"


def convert(source: Path, target: Path, progress: bool = True) -> None:
    """Writes `source`, a GGUF file, to `target` in the form that ctransformers runs.

    `target` appears whole or not at all, and replaces a file of that name. ModelFileError if the model would
    not run faithfully, or needs no conversion, or cannot be written. `progress` shows a bar on stderr.
    """
    gguf = read_gguf(source)
    if ctransformers_objection(gguf) is None:
        raise ModelFileError(f"{source.name}: needs no conversion, ctransformers runs it as it is")
    plan = _plan(gguf)
    try:
        if target.exists() and source.samefile(target):
            raise ModelFileError(f"{source.name}: cannot be converted onto itself")
        free = shutil.disk_usage(target.parent).free
        if free < plan.size:
            raise ModelFileError(f"{target.name}: needs {plan.size >> 20} MiB of disk, {free >> 20} MiB are free")
        with source.open("rb") as reader, _appearing(target) as writer:
            _write(plan, reader, writer, progress)
    except OSError as error:
        raise ModelFileError(f"{target.name}: cannot be written: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Plan:
    """The file to write: its header, then each tensor from a place in the source to a place in the target."""

    name: str
    header: bytes
    moves: list[tuple[TensorInfo, TensorInfo]]

    @property
    def size(self) -> int:
        last = self.moves[-1][1]
        return last.offset + last.nbytes


def _plan(gguf: GGUFFile) -> _Plan:
    if gguf.architecture != "llama":
        raise ModelFileError(f"{gguf.path.name}: of architecture {gguf.architecture!r}; only llama files are converted")
    changed = _changed_fields(gguf)
    fields = gguf.fields | changed
    sources = dict(gguf.tensors)
    if "output.weight" not in sources and "token_embd.weight" in sources:
        sources["output.weight"] = replace(sources["token_embd.weight"], name="output.weight")
    result = replace(gguf, fields=fields, tensors=sources)
    reason = ctransformers_objection(result)
    if reason is not None:
        raise ModelFileError(f"{gguf.path.name}: cannot be made to run in ctransformers: {reason}")
    with gguf.path.open("rb") as file:
        original = file.read(gguf.data_offset)
    header = MAGIC + struct.pack("<IQQ", gguf.version, len(sources), len(fields))
    header += b"".join(
        _encode(key, field) if key in changed else original[field.start : field.end] for key, field in fields.items()
    )
    offset, relative = 0, {}
    for name, tensor in sources.items():
        relative[name] = offset
        offset = _align(offset + tensor.nbytes, gguf.alignment)
        header += _string(name.encode()) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        header += struct.pack("<IQ", tensor.type, relative[name])
    header += bytes(-len(header) % gguf.alignment)
    moves = [(tensor, replace(tensor, offset=len(header) + relative[name])) for name, tensor in sources.items()]
    return _Plan(gguf.path.name, header, moves)


def _changed_fields(gguf: GGUFFile) -> dict[str, Field]:
    """The metadata that the target has differently or in addition."""
    changed = {
        SOURCE_NAME: Field(ValueType.STRING, None, gguf.path.name, 0, 0),
        SOURCE_SIZE: Field(ValueType.UINT64, None, gguf.size, 0, 0),
    }
    tokens = gguf.fields.get(_TOKENS)
    if gguf.get("tokenizer.ggml.model") == "gpt2" and tokens and tokens.item_type is ValueType.STRING:
        count = len(tokens.value)
        if _TYPES not in gguf.fields:
            types = np.full(count, TokenType.NORMAL, "<i4")
            changed[_TYPES] = Field(ValueType.ARRAY, ValueType.INT32, types, 0, 0)
        elif gguf.fields[_TYPES].item_type not in (ValueType.INT32, ValueType.UINT32):
            raise ModelFileError(f"{gguf.path.name}: {_TYPES}: not an array of INT32")
        elif len(gguf.get(_TYPES)) != count:
            raise ModelFileError(f"{gguf.path.name}: {_TYPES}: {len(gguf.get(_TYPES))} entries for {count} tokens")
        if _SCORES not in gguf.fields:
            # Byte-level BPE never looks at scores (it ranks merges), but the loader wants one per token.
            changed[_SCORES] = Field(ValueType.ARRAY, ValueType.FLOAT32, np.zeros(count, "<f4"), 0, 0)
        if not has_raw_tokens(gguf):
            changed[_TOKENS] = replace(tokens, value=_raw_tokens(gguf))
    scale = rope_scale(gguf)
    if scale not in (None, 1.0) and "llama.rope.scale_linear" not in gguf.fields:
        changed["llama.rope.scale_linear"] = Field(ValueType.FLOAT32, None, scale, 0, 0)
    return changed


def _raw_tokens(gguf: GGUFFile) -> list[bytes]:
    tokens = list(gguf.get(_TOKENS))
    index = 0
    try:
        for index, token in plain_tokens(gguf):
            tokens[index] = to_raw(token)
    except ValueError as error:
        problem = f"token {index}, {tokens[index]!r}: {error}"
        raise ModelFileError(f"{gguf.path.name}: {_TOKENS}: {problem}") from None
    return tokens


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _encode(key: str, field: Field) -> bytes:
    """A metadata entry of one of the kinds that `_changed_fields` makes."""
    head = _string(key.encode()) + struct.pack("<I", field.type)
    if field.type is ValueType.STRING:
        return head + _string(field.value.encode())
    if field.type is ValueType.UINT64:
        return head + struct.pack("<Q", field.value)
    if field.type is ValueType.FLOAT32:
        return head + struct.pack("<f", field.value)
    assert field.item_type is not None
    head += struct.pack("<IQ", field.item_type, len(field.value))
    if field.item_type is ValueType.STRING:
        return head + b"".join(map(_string, field.value))
    items: bytes = field.value.tobytes()
    return head + items


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _write(plan: _Plan, reader: BinaryIO, writer: BinaryIO, progress: bool) -> None:
    writer.write(plan.header)
    with tqdm(total=plan.size, desc=plan.name, unit="B", unit_scale=True, disable=not progress) as bar:
        bar.update(len(plan.header))
        for origin, place in plan.moves:
            gap = place.offset - writer.tell()
            writer.write(bytes(gap))
            bar.update(gap)
            reader.seek(origin.offset)
            left = origin.nbytes
            while left:
                chunk = reader.read(min(_CHUNK, left))
                if not chunk:
                    raise ModelFileError(f"{plan.name}: the file became shorter while it was read")
                writer.write(chunk)
                bar.update(len(chunk))
                left -= len(chunk)


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `target` once the block ends well, and is removed otherwise."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 after one line on stderr, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        "python -m modelfile.convert", description="Make a llama GGUF run in ctransformers."
    )
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    options = parser.parse_args(arguments)
    try:
        if os.path.lexists(options.target) and not options.force:
            raise ModelFileError(f"{options.target.name}: exists already; --force replaces it")
        convert(options.source, options.target)
    except ModelFileError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
