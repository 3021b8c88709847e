"""Writes small GGUF files, valid or broken, byte by byte; knows nothing of the reader under test."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIifBQqd", strict=True))


@dataclass(frozen=True)
class Array:
    """A metadata array: the items' type and the items."""

    item: int
    values: Any


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        return struct.pack("<IQ", content.item, len(content.values)) + b"".join(
            value(content.item, item) for item in content.values
        )
    return struct.pack("<" + _PACK[kind], content)


@dataclass
class Tensor:
    """A tensor to write: shape in ggml's order, ggml type, bytes."""

    shape: tuple[int, ...]
    type: int
    content: bytes


@dataclass
class Spec:
    """A GGUF file in the making: change anything, then `write` it."""

    fields: dict[str, tuple[int, Any]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    version: int = 3
    alignment: int = 32

    def encode(self) -> bytes:
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.fields))
        for key, (kind, content) in self.fields.items():
            head += string(key) + struct.pack("<I", kind) + value(kind, content)
        body = b""
        for name, tensor in self.tensors.items():
            head += string(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += struct.pack("<IQ", tensor.type, len(body))
            body += tensor.content + bytes(-len(tensor.content) % self.alignment)
        return head + (bytes(-len(head) % self.alignment) if self.tensors else b"") + body

    def write(self, path: Path) -> Path:
        path.write_bytes(self.encode())
        return path


def in_parts(
    spec: Spec, folder: Path, *, count: int = 3, change: dict[int, Callable[[Spec], object]] | None = None
) -> list[Path]:
    """The same model in several files, as `llama-gguf-split --no-tensor-first-split` writes them; `change`, by the
    number of a part, alters it first."""
    names = list(spec.tensors)
    paths = []
    for number in range(count):
        part = Spec(dict(spec.fields) if number == 0 else {}, {}, spec.version, spec.alignment)
        part.fields |= {"split.no": (U16, number), "split.count": (U16, count)}
        part.fields["split.tensors.count"] = (I32, len(names))
        if number:
            part.tensors = {each: spec.tensors[each] for each in names[number - 1 :: count - 1]}
        if change and number in change:
            change[number](part)
        paths.append(part.write(folder / f"tiny-{number + 1:05d}-of-{count:05d}.gguf"))
    return paths


def random_tensor(shape: tuple[int, ...], kind: int, seed: int) -> Tensor:
    """Small random weights; types that the gguf package cannot quantize get random but finite blocks."""
    random = np.random.default_rng(seed)
    rows = (random.standard_normal(shape[::-1]) * 0.1).astype(np.float32)
    try:
        return Tensor(shape, kind, quantize(rows, GGMLQuantizationType(kind)).tobytes())
    except NotImplementedError:
        block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        # Each byte below 0x18 keeps every float16 scale in the block small and finite.
        count = rows.size // block * nbytes
        return Tensor(shape, kind, random.integers(0, 0x18, count, dtype=np.uint8).tobytes())


def f32(*shape: int) -> Tensor:
    return Tensor(shape, 0, np.ones(shape[::-1], np.float32).tobytes())


def spm_vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types of a SentencePiece vocabulary of 280 tokens."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    words = [
        "▁",
        "▁a",
        "a",
        "b",
        "c",
        "▁b",
        "ab",
        "▁ab",
        "d",
        "e",
        "f",
        "g",
        "h",
        "i",
        "j",
        "k",
        "l",
        "m",
        "n",
        "o",
        "p",
    ]
    types = [2, 3, 3] + [6] * 256 + [1] * len(words)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(words))]
    return [piece.encode() for piece in pieces + words], scores, types


def byte_alphabet() -> list[str]:
    """GPT-2's 256 characters, by byte: printable Latin-1 stands for itself, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def bpe_vocabulary(raw: bool) -> tuple[list[bytes], list[int], list[bytes]]:
    """Tokens, types and merges of a byte-level BPE vocabulary, as raw bytes or in the alphabet."""
    alphabet = byte_alphabet()
    words = [b" a", b"ab", b" b", b"\n\n", b"\xc3\xa9", b"\xff\xfe"]
    plain = [bytes([byte]) for byte in range(256)] + words
    if not raw:
        plain = ["".join(alphabet[byte] for byte in token).encode() for token in plain]
    special = [b"<|endoftext|>", b"<|im_start|>", b"  ", "<é ü>".encode(), b"[PAD1]"]
    types = [1] * len(plain) + [3, 3, 4, 4, 5]
    merges = [" ".join(alphabet[byte] for byte in word).encode() for word in words]
    return plain + special, types, merges


def llama(matrix: int = 0, tokenizer: str = "llama", layers: int = 2, embd: int = 64, heads: int = 4) -> Spec:
    """A complete tiny llama as of autumn 2023: raw tokens, scores, output.weight; `matrix`: a ggml type."""
    ff, kv_heads = 2 * embd, heads // 2
    spec = Spec()
    put = spec.fields.__setitem__
    put("general.architecture", (STRING, "llama"))
    put("general.name", (STRING, "tiny"))
    put("llama.context_length", (U32, 64))
    put("llama.embedding_length", (U32, embd))
    put("llama.block_count", (U32, layers))
    put("llama.feed_forward_length", (U32, ff))
    put("llama.rope.dimension_count", (U32, embd // heads))
    put("llama.attention.head_count", (U32, heads))
    put("llama.attention.head_count_kv", (U32, kv_heads))
    put("llama.attention.layer_norm_rms_epsilon", (F32, 1e-5))
    vocab = _tokenizer(spec, tokenizer)
    kv = embd // heads * kv_heads
    shapes = {
        "token_embd.weight": (embd, vocab),
        "output_norm.weight": (embd,),
        "output.weight": (embd, vocab),
    }
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (embd,),
            f"blk.{layer}.attn_q.weight": (embd, embd),
            f"blk.{layer}.attn_k.weight": (embd, kv),
            f"blk.{layer}.attn_v.weight": (embd, kv),
            f"blk.{layer}.attn_output.weight": (embd, embd),
            f"blk.{layer}.ffn_norm.weight": (embd,),
            f"blk.{layer}.ffn_gate.weight": (embd, ff),
            f"blk.{layer}.ffn_down.weight": (ff, embd),
            f"blk.{layer}.ffn_up.weight": (embd, ff),
        }
    _weights(spec, shapes, matrix)
    return spec


def falcon(matrix: int = 0, new_decoder: bool = False, embd: int = 64, heads: int = 4, kv_heads: int = 1) -> Spec:
    """A complete tiny Falcon of one layer; `new_decoder` is the 40B's form with a second norm."""
    spec = Spec()
    put = spec.fields.__setitem__
    put("general.architecture", (STRING, "falcon"))
    put("falcon.context_length", (U32, 64))
    put("falcon.embedding_length", (U32, embd))
    put("falcon.block_count", (U32, 1))
    put("falcon.feed_forward_length", (U32, 4 * embd))
    put("falcon.attention.head_count", (U32, heads))
    put("falcon.attention.head_count_kv", (U32, kv_heads))
    put("falcon.attention.layer_norm_epsilon", (F32, 1e-5))
    vocab = _tokenizer(spec, "gpt2")
    qkv = embd + 2 * kv_heads * (embd // heads)
    norms = ["output_norm", "blk.0.attn_norm"] + ["blk.0.attn_norm_2"] * new_decoder
    shapes: dict[str, tuple[int, ...]] = {f"{norm}.{part}": (embd,) for norm in norms for part in ("weight", "bias")}
    shapes |= {"token_embd.weight": (embd, vocab), "output.weight": (embd, vocab)}
    shapes |= {"blk.0.attn_qkv.weight": (embd, qkv), "blk.0.attn_output.weight": (embd, embd)}
    shapes |= {"blk.0.ffn_up.weight": (embd, 4 * embd), "blk.0.ffn_down.weight": (4 * embd, embd)}
    _weights(spec, shapes, matrix)
    return spec


def modern(spec: Spec) -> Spec:
    """The same llama as today's converters write it: alphabet tokens, no scores, a tied output."""
    tokens, _, _ = bpe_vocabulary(raw=False)
    spec.fields["tokenizer.ggml.tokens"] = (ARRAY, Array(STRING, tokens))
    spec.fields.pop("tokenizer.ggml.scores")
    spec.tensors.pop("output.weight")
    return spec


def _tokenizer(spec: Spec, model: str) -> int:
    put = spec.fields.__setitem__
    put("tokenizer.ggml.model", (STRING, model))
    if model == "llama":
        tokens, scores, types = spm_vocabulary()
        put("tokenizer.ggml.bos_token_id", (U32, 1))
        put("tokenizer.ggml.eos_token_id", (U32, 2))
    else:
        tokens, types, merges = bpe_vocabulary(raw=True)
        scores = [0.0] * len(tokens)
        put("tokenizer.ggml.merges", (ARRAY, Array(STRING, merges)))
        put("tokenizer.ggml.bos_token_id", (U32, 262))
        put("tokenizer.ggml.eos_token_id", (U32, 262))
    put("tokenizer.ggml.tokens", (ARRAY, Array(STRING, tokens)))
    put("tokenizer.ggml.scores", (ARRAY, Array(F32, scores)))
    put("tokenizer.ggml.token_type", (ARRAY, Array(I32, types)))
    return len(tokens)


def _weights(spec: Spec, shapes: dict[str, tuple[int, ...]], matrix: int) -> None:
    for seed, (name, shape) in enumerate(shapes.items()):
        spec.tensors[name] = f32(*shape) if len(shape) == 1 else random_tensor(shape, matrix, seed)
