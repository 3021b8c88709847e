"""Decide whether it is safe to give a GGUF file to llama.cpp.

Its loader refuses most bad files with a reason. The rules here reject files that would end the process through a failed
assertion, at load or at the first token (found by changing each value of valid files), and files that it would load and
then run incorrectly.
"""

import math
import re
from collections.abc import Iterator

import numpy as np

from ggserve.modelfile.file import UNSPECIFIED_POOLING, is_reranker
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.gguf_header import ValueType
from ggserve.modelfile.token_spelling import TokenType, has_raw_tokens

_MAX_LAYERS = 512
_MIN_CONTEXT = 2  # llama.cpp warms a model up with two tokens
_MAX_CONTEXT = 2**31 - 1
_MAX_POOLING_TYPE = 4
_EPSILONS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon")
_SIZES = (
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
)
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# Architectures whose RoPE rotates every dimension of a head.
_WHOLE_HEAD_TURNS = frozenset({"qwen2", "qwen2moe", "qwen3", "qwen3moe", "internlm2", "exaone", "xverse", "minicpm"})
_WHOLE_HEAD_TURNS |= {"baichuan", "mistral3", "smollm3", "granite", "jais2"}
# Architectures whose keys and values have the same length. With latent attention, they can differ.
_ONE_HEAD_LENGTH = _WHOLE_HEAD_TURNS | {"bert", "llama", "gemma", "gemma2", "gemma3", "phi3"}
# I8 to F64, and the activation types Q8_1 and Q8_K: multiplying by such a matrix ends the process.
_NO_WEIGHTS = frozenset({9, 15, 24, 25, 26, 27, 28})
_HEADS = ("cls.weight", "cls.output.weight")  # matrices that can have a single row
_NO_GENERATORS = {"t5": "an encoder-decoder", "wavtokenizer-dec": "an audio decoder"}
_LAYER = re.compile(r"(?:enc\.|dec\.)?blk\.\d+\.")
_ELEMENTWISE = re.compile(r"norm|token_types|ssm_(conv1d|a|d)\b")  # matrices used in element-wise operations
_INTEGERS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)


def llama_cpp_objection(gguf: GGUFFile) -> str | None:
    """Return None if llama.cpp can load the file safely, else one line that names the key at fault."""
    return next(_objections(gguf), None)


def _objections(gguf: GGUFFile) -> Iterator[str]:
    # Only the first objection is used, so each check can rely on the checks before it.
    arch = gguf.architecture
    if not arch:
        yield "general.architecture: missing"
    if arch in _NO_GENERATORS:
        yield f"general.architecture: {arch!r} is {_NO_GENERATORS[arch]}, which is not supported"
    yield from _integer(gguf, f"{arch}.context_length", _MIN_CONTEXT, _MAX_CONTEXT)
    yield from _integer(gguf, f"{arch}.block_count", 1, _MAX_LAYERS)
    if gguf.get(f"{arch}.pooling_type", UNSPECIFIED_POOLING) != UNSPECIFIED_POOLING:
        yield from _integer(gguf, f"{arch}.pooling_type", 0, _MAX_POOLING_TYPE)
    if is_reranker(gguf) and not {"cls.weight", "cls.output.weight"} & gguf.tensors.keys():
        yield "cls.output.weight: missing, but a reranker's scores come from it"
    for key in (f"{arch}.{name}" for name in _EPSILONS):
        epsilon = gguf.get(key, 0.0)
        if not isinstance(epsilon, float) or not math.isfinite(epsilon) or epsilon < 0:
            yield f"{key}: {epsilon}"
    yield from _sizes(gguf)
    yield from _rope(gguf)
    yield from _vocabulary(gguf)
    yield from _tensors(gguf)


def _integer(gguf: GGUFFile, key: str, lowest: int, highest: int) -> Iterator[str]:
    field = gguf.fields.get(key)
    if field is None:
        yield f"{key}: missing"
    elif field.type not in _INTEGERS:
        yield f"{key}: has type {field.type.name}, not an integer"
    elif not lowest <= field.value <= highest:
        yield f"{key}: {field.value} is not between {lowest} and {highest}"


def _sizes(gguf: GGUFFile) -> Iterator[str]:
    """Check the sizes, each of which is a number or an array with one per layer."""
    arch = gguf.architecture
    for key in (f"{arch}.{name}" for name in _SIZES):
        if (field := gguf.fields.get(key)) is None:
            continue
        if (field.item_type or field.type) not in _INTEGERS:
            yield f"{key}: not an integer"
        if np.size(field.value) == 0 or np.min(field.value) < 0 or np.max(field.value) > _MAX_CONTEXT:
            yield f"{key}: not between 0 and {_MAX_CONTEXT}"
    if arch in _ONE_HEAD_LENGTH:
        heads, width = (gguf.get(f"{arch}.{name}") for name in ("attention.head_count", "embedding_length"))
        default = width // heads if isinstance(heads, int) and isinstance(width, int) and heads else None
        keys, values = (gguf.get(f"{arch}.attention.{name}_length", default) for name in ("key", "value"))
        if keys != values:
            yield f"{arch}.attention.key_length: {keys}, but value_length is {values}"


def _rope(gguf: GGUFFile) -> Iterator[str]:
    scaling = gguf.get(f"{gguf.architecture}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        yield f"{gguf.architecture}.rope.scaling.type: {scaling!r} is not one of {', '.join(_ROPE_SCALINGS)}"
    key = f"{gguf.architecture}.rope.dimension_count"
    if key in gguf.fields:
        yield from _integer(gguf, key, 2, _MAX_CONTEXT)
        if gguf.get(key) % 2:
            yield f"{key}: {gguf.get(key)} is odd"
        heads = gguf.get(f"{gguf.architecture}.attention.head_count")
        width = gguf.get(f"{gguf.architecture}.embedding_length")
        if isinstance(heads, int) and isinstance(width, int) and heads:
            head = gguf.get(f"{gguf.architecture}.attention.key_length", width // heads)
            if isinstance(head, int) and gguf.get(key) > head:
                yield f"{key}: {gguf.get(key)} is more than the head size {head}"
            if gguf.architecture in _WHOLE_HEAD_TURNS and gguf.get(key) != head:
                yield f"{key}: {gguf.get(key)} is not the head size {head}"


def _vocabulary(gguf: GGUFFile) -> Iterator[str]:
    tokens = gguf.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, bytes) for token in tokens[:1]) or not tokens:
        yield "tokenizer.ggml.tokens: missing"
    if len(set(filter(None, tokens))) != sum(map(bool, tokens)):
        yield "tokenizer.ggml.tokens: a token occurs twice"
    for name in ("scores", "token_type"):  # the loader reads one per token without checking their number
        values = gguf.get(f"tokenizer.ggml.{name}")
        if values is not None and not (isinstance(values, np.ndarray) and len(values) == len(tokens)):
            yield f"tokenizer.ggml.{name}: not one number for each of the {len(tokens)} tokens"
    for key, field in gguf.fields.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and field.type not in _INTEGERS:
            yield f"{key}: has type {field.type.name}, not an integer"
    model = gguf.get("tokenizer.ggml.model")
    if model == "gpt2" and has_raw_tokens(gguf):
        yield "tokenizer.ggml.tokens: written as raw bytes, which only ctransformers reads"
    types = gguf.get("tokenizer.ggml.token_type", [])
    if model == "bert" and np.any(np.asarray(types) == TokenType.BYTE):
        yield "tokenizer.ggml.token_type: byte tokens in a 'bert' vocabulary"
    if model == "bert":
        for role in ("unknown", "seperator"):  # sic: the format's own spelling
            yield from _integer(gguf, f"tokenizer.ggml.{role}_token_id", 0, len(tokens) - 1)
        start = "bos" if "tokenizer.ggml.bos_token_id" in gguf.fields else "cls"
        yield from _integer(gguf, f"tokenizer.ggml.{start}_token_id", 0, len(tokens) - 1)


def _tensors(gguf: GGUFFile) -> Iterator[str]:
    layers: dict[str, set[str]] = {}
    for name in gguf.tensors:
        if layer := _LAYER.match(name):
            layers.setdefault(layer[0], set()).add(name[layer.end() :])
    for layer_name, parts in layers.items():
        if "attn_output.weight" in parts and not any(part.startswith("attn_q") for part in parts):
            yield f"{layer_name}attn_q.weight: missing"
    for name, tensor in gguf.tensors.items():
        matrix = len(tensor.shape) > 1 and (min(tensor.shape[:2]) > 1 or name in _HEADS)
        product = matrix and not _ELEMENTWISE.search(name)
        if tensor.type in _NO_WEIGHTS or not (product or tensor.type_name == "F32"):
            yield f"{name}: type {tensor.type_name} is not supported for this tensor"
