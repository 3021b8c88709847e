"""Decide whether ctransformers 0.2.27 runs a GGUF file exactly as it is.

Its loader (llama.cpp of September 2023) checks little: a wrong array length, a missing token or one layer too many
crashes the process, and it ignores settings that it does not know. Each rule here is one of its requirements, or
rejects a file that it would load and then run incorrectly.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ggserve.errors import one_line
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.gguf_header import ValueType
from ggserve.modelfile.token_spelling import TokenType, has_raw_tokens

MATRIX_TYPES = frozenset({0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14})
"""F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K: the types that its get_rows and mul_mat both support."""

_MAX_CONTEXT = 2**31 - 1
_MAX_ALIGNMENT = 1 << 16

# Its graph has room for about 4096 tensors: one layer more than these crashes it (measured).
_MAX_LAYERS = {"llama": 113, "falcon": 116, "falcon with attn_norm_2": 107}

# Settings of the architecture that it reads, or that have no effect in these architectures.
_KNOWN = frozenset(
    {
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "vocab_size",
        "tensor_data_layout",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
    }
)

# Settings that it does not read, with the values that have no effect.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (True,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "rope.scaling.attn_factor": (1,),
}

_SPECIAL_IDS = {  # key: the loader's defaults for "llama" and "gpt2" vocabularies
    "tokenizer.ggml.bos_token_id": (1, 11),
    "tokenizer.ggml.eos_token_id": (2, 11),
    "tokenizer.ggml.unknown_token_id": (0, None),
    "tokenizer.ggml.seperator_token_id": (None, None),
    "tokenizer.ggml.padding_token_id": (None, None),
}

_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")


def ctransformers_objection(gguf: GGUFFile) -> str | None:
    """Return None if ctransformers runs the file exactly as it is, else one line that names the key or tensor at
    fault."""
    reason = next(_objections(gguf), None)
    return None if reason is None else one_line(reason)


@dataclass(frozen=True, slots=True)
class _Sizes:
    embedding: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def head(self) -> int:
        return self.embedding // self.heads

    @property
    def kv(self) -> int:
        return self.head * self.kv_heads


def _objections(gguf: GGUFFile) -> Iterator[str]:
    # Only the first objection is used, so each check can rely on the checks before it.
    yield from _containers(gguf)
    yield from _types(gguf)
    yield from _sizes(gguf)
    yield from _settings(gguf)
    yield from _rope(gguf)
    yield from _vocabulary(gguf)
    yield from _tensors(gguf)


def _containers(gguf: GGUFFile) -> Iterator[str]:
    for key, field in gguf.fields.items():
        if "\0" in key:
            yield f"key {key!r} contains a NUL character"
        if field.item_type is ValueType.ARRAY:
            yield f"{key}: an array of arrays"
    if gguf.architecture not in ("llama", "falcon"):
        yield f"general.architecture: {gguf.architecture!r} is neither 'llama' nor 'falcon'"
    if "split.count" in gguf.fields:
        yield "split.count: the model is in several files"
    if gguf.alignment % 8 or gguf.alignment > _MAX_ALIGNMENT:
        yield f"general.alignment: {gguf.alignment} is not a multiple of 8 up to {_MAX_ALIGNMENT}"


def _types(gguf: GGUFFile) -> Iterator[str]:
    arch = gguf.architecture
    norm = "layer_norm_rms_epsilon" if arch == "llama" else "layer_norm_epsilon"
    required = {
        "tokenizer.ggml.model": ValueType.STRING,
        f"{arch}.context_length": ValueType.UINT32,
        f"{arch}.embedding_length": ValueType.UINT32,
        f"{arch}.feed_forward_length": ValueType.UINT32,
        f"{arch}.block_count": ValueType.UINT32,
        f"{arch}.attention.head_count": ValueType.UINT32,
        f"{arch}.attention.{norm}": ValueType.FLOAT32,
    }
    optional = {
        "general.name": ValueType.STRING,
        f"{arch}.attention.head_count_kv": ValueType.UINT32,
        f"{arch}.attention.key_length": ValueType.UINT32,
        f"{arch}.attention.value_length": ValueType.UINT32,
        f"{arch}.rope.dimension_count": ValueType.UINT32,
        f"{arch}.rope.freq_base": ValueType.FLOAT32,
        f"{arch}.rope.scale_linear": ValueType.FLOAT32,
        **dict.fromkeys(_SPECIAL_IDS, ValueType.UINT32),
    }
    for key, kind in {**required, **optional}.items():
        field = gguf.fields.get(key)
        if field is None:
            if key in required:
                yield f"{key}: missing"
        elif field.type is not kind:
            yield f"{key}: has type {field.type.name}, not {kind.name}"
    epsilon = gguf.get(f"{arch}.attention.{norm}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        yield f"{arch}.attention.{norm}: {epsilon}"


def _read_sizes(gguf: GGUFFile) -> _Sizes:
    arch = gguf.architecture
    heads = gguf.get(f"{arch}.attention.head_count")
    return _Sizes(
        embedding=gguf.get(f"{arch}.embedding_length"),
        feed_forward=gguf.get(f"{arch}.feed_forward_length"),
        layers=gguf.get(f"{arch}.block_count"),
        heads=heads,
        kv_heads=gguf.get(f"{arch}.attention.head_count_kv", heads),
    )


def _sizes(gguf: GGUFFile) -> Iterator[str]:
    arch, sizes = gguf.architecture, _read_sizes(gguf)
    context = gguf.get(f"{arch}.context_length")
    if not 0 < context <= _MAX_CONTEXT:
        yield f"{arch}.context_length: {context}"
    if not sizes.embedding:
        yield f"{arch}.embedding_length: 0"
    if not sizes.heads or sizes.embedding % sizes.heads:
        yield f"{arch}.attention.head_count: {sizes.heads} does not divide the width {sizes.embedding}"
    if not sizes.kv_heads or sizes.heads % sizes.kv_heads:
        yield f"{arch}.attention.head_count_kv: {sizes.kv_heads} does not divide the head count {sizes.heads}"
    if sizes.head % 2:
        yield f"{arch}.attention.head_count: head size {sizes.head} is odd"
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        length = gguf.get(f"{arch}.{key}", sizes.head)
        if length != sizes.head:
            yield f"{arch}.{key}: {length} is not the width over the head count, {sizes.head}"
    two_norms = arch == "falcon" and any("attn_norm_2" in name for name in gguf.tensors)
    limit = _MAX_LAYERS["falcon with attn_norm_2" if two_norms else arch]
    if not 0 < sizes.layers <= limit:
        yield f"{arch}.block_count: {sizes.layers} layers; at most {limit} are supported"


def _settings(gguf: GGUFFile) -> Iterator[str]:
    prefix = gguf.architecture + "."
    for key, field in gguf.fields.items():
        name = key.removeprefix(prefix)
        if name == key or name in _KNOWN:
            continue
        if field.type is ValueType.ARRAY or field.value not in _NEUTRAL.get(name, ()):
            yield f"{key}: an unsupported setting"


def rope_scale(gguf: GGUFFile) -> float | None:
    """Return the factor of linear rope scaling (1.0: none), or None if the scaling is not linear."""
    prefix = gguf.architecture + ".rope."
    kind = gguf.get(prefix + "scaling.type", "linear")
    factor = gguf.get(prefix + "scaling.factor", gguf.get(prefix + "scale_linear", 1.0))
    if not isinstance(kind, str) or kind not in ("none", "linear") or not isinstance(factor, int | float):
        return None
    return 1.0 if kind == "none" else float(factor or 1.0)


def _rope(gguf: GGUFFile) -> Iterator[str]:
    prefix = gguf.architecture + ".rope."
    for key in ("freq_base", "scale_linear"):
        value = gguf.get(prefix + key, 1.0)
        if not (math.isfinite(value) and value > 0):
            yield f"{prefix}{key}: {value}"
    scale = rope_scale(gguf)
    if scale is None:
        yield f"{prefix}scaling.type: {gguf.get(prefix + 'scaling.type')!r} is an unsupported scaling"
    if scale != gguf.get(prefix + "scale_linear", 1.0):
        yield f"{prefix}scaling.factor: it reads only {prefix}scale_linear, which is not {scale}"


def _array(gguf: GGUFFile, key: str, *kinds: ValueType) -> Iterator[str]:
    field = gguf.fields.get(key)
    if field is None:
        yield f"{key}: missing"
    elif field.item_type not in kinds:
        yield f"{key}: not an array of {kinds[0].name}"


def _vocabulary(gguf: GGUFFile) -> Iterator[str]:
    model = gguf.get("tokenizer.ggml.model")
    if model not in ("llama", "gpt2"):
        yield f"tokenizer.ggml.model: {model!r} is neither 'llama' nor 'gpt2'"
    yield from _array(gguf, "tokenizer.ggml.tokens", ValueType.STRING)
    yield from _array(gguf, "tokenizer.ggml.scores", ValueType.FLOAT32)
    yield from _array(gguf, "tokenizer.ggml.token_type", ValueType.INT32, ValueType.UINT32)
    tokens: list[bytes] = gguf.get("tokenizer.ggml.tokens")
    types = gguf.get("tokenizer.ggml.token_type")
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if len(gguf.get(key)) != len(tokens):
            yield f"{key}: {len(gguf.get(key))} entries for {len(tokens)} tokens"
    if model == "llama":
        known = set(tokens)
        for byte in range(256):
            if b"<0x%02X>" % byte not in known:
                yield f"tokenizer.ggml.tokens: no token <0x{byte:02X}>"
        if gguf.get("tokenizer.ggml.add_space_prefix", True) is not True:
            yield "tokenizer.ggml.add_space_prefix: false, but it always adds a space before the text"
    else:
        yield from _array(gguf, "tokenizer.ggml.merges", ValueType.STRING)
        if not has_raw_tokens(gguf):
            yield "tokenizer.ggml.tokens: written in the byte alphabet instead of raw bytes"
    for index in (types == TokenType.BYTE).nonzero()[0]:
        if not _BYTE_TOKEN.fullmatch(tokens[index]):
            yield f"tokenizer.ggml.tokens: token {index} has type BYTE, but its text is {tokens[index]!r}"
    for key, defaults in _SPECIAL_IDS.items():
        token = gguf.get(key, defaults[model == "gpt2"])
        if token is not None and token >= len(tokens):
            yield f"{key}: {token} is not one of the {len(tokens)} tokens"


def _norms_and_matrices(gguf: GGUFFile) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return names and shapes of the tensors that the loader reads: those that must be F32, and the others."""
    sizes = _read_sizes(gguf)
    embd, vocab = sizes.embedding, len(gguf.get("tokenizer.ggml.tokens"))
    norms: dict[str, tuple[int, ...]] = {"output_norm.weight": (embd,)}
    matrices: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (embd, vocab),
        "output.weight": (embd, vocab),
    }
    if gguf.architecture == "falcon":
        norms["output_norm.bias"] = (embd,)
    for layer in range(sizes.layers):
        block = f"blk.{layer}."
        matrices |= {
            f"{block}attn_output.weight": (embd, embd),
            f"{block}ffn_up.weight": (embd, sizes.feed_forward),
            f"{block}ffn_down.weight": (sizes.feed_forward, embd),
        }
        norms[f"{block}attn_norm.weight"] = (embd,)
        if gguf.architecture == "llama":
            norms[f"{block}ffn_norm.weight"] = (embd,)
            matrices |= {
                f"{block}attn_q.weight": (embd, embd),
                f"{block}attn_k.weight": (embd, sizes.kv),
                f"{block}attn_v.weight": (embd, sizes.kv),
                f"{block}ffn_gate.weight": (embd, sizes.feed_forward),
            }
        else:
            norms[f"{block}attn_norm.bias"] = (embd,)
            matrices[f"{block}attn_qkv.weight"] = (embd, embd + 2 * sizes.kv)
            if f"{block}attn_norm_2.weight" in gguf.tensors:
                norms |= {f"{block}attn_norm_2.weight": (embd,), f"{block}attn_norm_2.bias": (embd,)}
    return norms, matrices


def _tensors(gguf: GGUFFile) -> Iterator[str]:
    norms, matrices = _norms_and_matrices(gguf)
    expected = norms | matrices
    for name in gguf.tensors:
        if name not in expected:
            yield f"{name}: {_unexpected_tensor(name)}"
    for name, shape in expected.items():
        tensor = gguf.tensors.get(name)
        if tensor is None:
            tied = name == "output.weight"
            yield f"{name}: missing" + (" (the output is tied to token_embd.weight)" if tied else "")
        else:
            if tensor.shape[: len(shape)] != shape or set(tensor.shape[len(shape) :]) - {1}:
                yield f"{name}: has shape {list(tensor.shape)}, not {list(shape)}"
            if name in norms and tensor.type_name != "F32":
                yield f"{name}: has type {tensor.type_name}, not F32"
            if tensor.type not in MATRIX_TYPES:
                yield f"{name}: has the unsupported type {tensor.type_name}"


def _unexpected_tensor(name: str) -> str:
    """Describe a tensor that the loader does not read, and at which it would stop."""
    if name.startswith("rope_"):
        return "rope frequencies, which it does not support"
    if name.endswith(".bias"):
        return "a bias, which it does not support"
    if "_exps" in name or "_inp" in name or re.search(r"ffn_\w+\.\d+\.", name):
        return "experts (MoE), which it does not support"
    return "an unsupported tensor"
