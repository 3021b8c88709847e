"""The layout of a legacy GGML file: the order of its header, vocabulary and tensors.

Families that differ only in their tokenizer (gpt2 and starcoder, gptneox and dolly-v2) share a layout.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf_header import TensorInfo
from ggserve.modelfile.tensor_types import F16, F32, TENSOR_TYPES

FAMILIES = ("dolly-v2", "falcon", "gpt2", "gptj", "gptneox", "llama", "mpt", "replit", "starcoder")

_ALIASES = {"gptbigcode": "starcoder", "dolly": "dolly-v2"}

# The matrix type for each ftype number. No loader accepts 4 (Q4_1 with some F16).
_MATRIX_TYPE = {0: 0, 1: 1, 2: 2, 3: 3, 7: 8, 8: 6, 9: 7, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
_Q4_0, _Q4_1, _Q8_0 = 2, 3, 8
_QUANTIZATION_VERSION = 2  # since May 2023; older versions use other block layouts under the same type numbers
_MAX_INT = 2**31 - 1
_MAX_LAYERS = 64  # the graph has room for 4096 nodes, about 60 per layer
_TENSOR_BYTES = 320  # one tensor's bookkeeping in the loader's pool

Shape = tuple[int, ...]
Format = tuple[str, int | None]


class UnfitHeader(Exception):
    """The parts of a file are inconsistent. `at`: the byte at fault, by default the reader's position."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


def named_family(model_type: str) -> str:
    """Return the family that a MODEL_TYPE means, in any spelling that ctransformers accepts. Raises ModelFileError if
    there is none."""
    spelled = "".join(filter(str.isalnum, model_type.lower()))
    known = {"".join(filter(str.isalnum, family)): family for family in FAMILIES} | _ALIASES
    if spelled not in known:
        raise ModelFileError(f"MODEL_TYPE={model_type}: not a legacy model family; use one of {', '.join(FAMILIES)}")
    return known[spelled]


def row_length(shape: Shape, kind: int) -> int:
    """Return the bytes of a tensor of this shape and type."""
    layout = TENSOR_TYPES[kind]
    return shape[0] // layout.block * layout.nbytes * math.prod(shape[1:])


@dataclass(frozen=True)
class Header:
    """A file's checked hyperparameters, with the same names for all families."""

    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_ctx: int  # tokens: from the file, else the family's training context
    n_ff: int
    n_head_kv: int
    fixed_context: bool  # the loader sizes the KV cache by the file
    matrix_type: int | None = None  # of all matrices; None: each tensor has its own
    n_tokens: int = 0  # in the file's vocabulary
    n_rows: int = 0  # of the embedding, in the file
    n_rot: int | None = None
    epsilon: float = 1e-5  # of the norms; no file contains it
    rms_norm: bool = False
    parallel_residual: bool | None = None  # gptneox
    alibi_bias_max: float | None = None  # mpt, replit
    clip_qkv: float = 0.0  # mpt; 0: none
    n_mult: int = 1  # llama: the feed-forward width is a multiple of this
    falcon_40b: bool = False
    drops_pad: bool = False  # falcon: the loader drops a 65025th token, [PAD]
    old_blocks: frozenset[int] = frozenset()  # types with an old block layout that the loader would misread

    def metadata(self) -> dict[str, Any]:
        """Return the hyperparameters under GGUF's names."""
        numbers: dict[str, Any] = {
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "block_count": self.n_layer,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "vocab_size": self.n_vocab,
            "attention.layer_norm_rms_epsilon" if self.rms_norm else "attention.layer_norm_epsilon": self.epsilon,
        }
        if self.n_rot is not None:
            numbers["rope.dimension_count"] = self.n_rot
        if self.parallel_residual is not None:
            numbers["use_parallel_residual"] = self.parallel_residual
        if self.alibi_bias_max is not None:
            numbers["attention.max_alibi_bias"] = self.alibi_bias_max
        if self.clip_qkv:
            numbers["attention.clamp_kqv"] = self.clip_qkv
        return numbers


class Layout:
    """The order of header, vocabulary and tensors. The magic is `ggml` unless a subclass says otherwise."""

    families: tuple[str, ...]
    formats: tuple[Format, ...] = (("ggml", None),)
    float_keys: frozenset[str] = frozenset()
    counts_tokens = False  # True if the vocabulary starts with its size
    prefixes: tuple[str, ...]  # of tensor names
    kv_bytes = 2  # per element of the KV cache
    pool_slack = (6, 12, 512)  # bytes for bookkeeping: (a + b * layers) * c

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        """Return the hyperparameters' names in file order."""
        raise NotImplementedError

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        """Return the header with its sizes checked. Raises UnfitHeader."""
        raise NotImplementedError

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Return names and shapes of the tensors that are always F32, and of the matrices."""
        raise NotImplementedError

    def scored(self, magic: str) -> bool:
        """Return whether a score follows each token."""
        return False

    def optional(self) -> frozenset[str]:
        """Return the tensors that the loader does not require."""
        return frozenset()

    def knows(self, name: str) -> bool:
        """Return whether a tensor with this name can belong to this layout."""
        return name.startswith(self.prefixes)

    def check_tokens(self, header: Header, tokens: Sequence[bytes]) -> None:
        """Check that no token crashes the loader. Raises UnfitHeader."""

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        """Return the header with the facts that only the rest of the file reveals."""
        return header

    def check_tensors(self, header: Header, tensors: Mapping[str, TensorInfo]) -> None:
        """Check that `tensors` are exactly those that the loader reads. Raises UnfitHeader."""
        norms, matrices = self.tensors(header)
        expected = norms | matrices
        for name, shape in expected.items():
            tensor = tensors.get(name)
            if tensor is None:
                if name in self.optional():
                    continue
                raise UnfitHeader(f"tensor {name!r} is missing")
            if tensor.shape != shape:
                raise UnfitHeader(f"tensor {name!r} has shape {list(tensor.shape)}, not {list(shape)}", tensor.offset)
            kinds = _kinds(header) if name in matrices else {F32}
            if tensor.type not in kinds:
                wanted = " or ".join(TENSOR_TYPES[kind].name for kind in sorted(kinds))
                raise UnfitHeader(f"tensor {name!r} has type {tensor.type_name}, not {wanted}", tensor.offset)
        for name, tensor in tensors.items():
            if name not in expected:
                raise UnfitHeader(f"tensor {name!r} does not belong to this family", tensor.offset)
        if header.matrix_type is not None:
            self._check_pool(header, header.matrix_type)

    def _check_pool(self, header: Header, kind: int) -> None:
        """Check that rounding leaves room for bookkeeping: the loader adds up its memory pool in single precision."""
        norms, matrices = self.tensors(header)
        size = sum(row_length(shape, F32) for shape in norms.values())
        size += sum(row_length(shape, kind) for shape in matrices.values()) + kv_cache_bytes(self, header)
        base, per_layer, each = self.pool_slack
        room = (base + per_layer * header.n_layer) * each
        needed = (len(norms) + len(matrices) + 2) * (_TENSOR_BYTES + 16)
        if needed + 16 * float(np.spacing(np.float32(size))) > room:
            raise UnfitHeader(f"{header.n_layer} layers of {size} bytes are too large for the loader's arithmetic")


def _kinds(header: Header) -> set[int]:
    if header.matrix_type is not None:
        return {header.matrix_type}
    return set(_MATRIX_TYPE.values()) - header.old_blocks


def kv_cache_bytes(layout: Layout, header: Header) -> int:
    """Return the bytes of keys and values for the whole context."""
    width = header.n_embd // header.n_head * header.n_head_kv
    return 2 * layout.kv_bytes * header.n_ctx * header.n_layer * width


def check_positive(values: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if values[name] < 1:
            raise UnfitHeader(f"{name} is {values[name]}")


def check_sizes(header: Header, *, int_arithmetic: bool) -> Header:
    """Check that divisions have no remainder and that no product overflows in the loader."""
    if header.n_head == 1:
        raise UnfitHeader("n_head is 1, which crashes the process at the first prompt")
    if header.n_embd % header.n_head:
        raise UnfitHeader(f"{header.n_head} heads do not divide the width {header.n_embd}")
    head = header.n_embd // header.n_head
    if header.n_rot is not None and not (2 <= header.n_rot <= head and header.n_rot % 2 == 0):
        raise UnfitHeader(f"n_rot is {header.n_rot}, but the head size is {head}")
    products = [header.n_embd * header.n_vocab, 4 * header.n_embd * header.n_embd, header.n_embd * header.n_ctx]
    if int_arithmetic:
        products.append(header.n_ctx * header.n_layer * header.n_embd)
    if max(products) > _MAX_INT:
        raise UnfitHeader(f"width {header.n_embd}, {header.n_vocab} tokens, context {header.n_ctx}: too large")
    return header


def projections(width: int) -> list[tuple[int, int]]:
    """Return the shapes of a block's matrices: attention input (queries, keys and values in one), attention output, up
    and down."""
    return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]


def check_layers(values: Mapping[str, Any], name: str = "n_layer", most: int = _MAX_LAYERS) -> None:
    if not 1 <= values[name] <= most:
        raise UnfitHeader(f"{name} is {values[name]}, not 1 to {most}")


def matrix_type(ftype: int) -> int:
    """Return the matrix type of an `ftype`. Raises UnfitHeader if it is unknown or has an old block layout."""
    version, kind = divmod(ftype, 1000) if ftype >= 0 else (0, ftype)
    if kind not in _MATRIX_TYPE:
        raise UnfitHeader(f"ctransformers does not support ftype {ftype}")
    found = _MATRIX_TYPE[kind]
    if found not in (F32, F16) and version != _QUANTIZATION_VERSION:
        raise UnfitHeader(
            f"quantized ({TENSOR_TYPES[found].name}) in the layout of version {version}, but only version "
            f"{_QUANTIZATION_VERSION} is supported: use a newer file"
        )
    return found


def old_blocks(ftype: int, magic: str, version: int | None) -> frozenset[int]:
    """Return the types whose block layout changed since this version, for formats in which each tensor has its own
    type."""
    if ftype not in _MATRIX_TYPE and ftype != 4:
        raise UnfitHeader(f"ftype {ftype} is unknown")
    if magic == "ggcc" or (magic, version) == ("ggjt", 3):
        return frozenset()
    plain = frozenset({F32, F16})
    old = frozenset({_Q4_0, _Q4_1, _Q8_0}) if (magic, version) == ("ggjt", 2) else frozenset(TENSOR_TYPES) - plain
    if _MATRIX_TYPE.get(ftype, _Q4_1) in old:
        name = magic if version is None else f"{magic} v{version}"
        raise UnfitHeader(f"quantized in the old layout of {name}, which is no longer supported: use a newer file")
    return old
