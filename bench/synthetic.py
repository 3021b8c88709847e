"""LLaMA-shaped GGUF files of any size and quantization, with random weights: as fast or slow as real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

Kind = GGMLQuantizationType

_WEIGHT = 0.02  # standard deviation of the weights
_BYTE_TOKENS = 256
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # types of tokens


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000


@dataclass(frozen=True)
class _Block:
    """The places and values of a block's scales that turn random bytes into sane weights."""

    scale_at: int
    deviation: float  # of the weights of random bytes at a scale of 1
    minimum_at: int | None = None
    minimum: float = 0.0  # in scales: the offset that centres the weights


_BLOCKS = {  # layouts: ggml's block_q4_0 to block_q6_K; deviations: of random bytes
    Kind.Q4_0: _Block(0, 4.6),
    Kind.Q4_1: _Block(0, 4.6, 2, -7.5),
    Kind.Q5_0: _Block(0, 9.2),
    Kind.Q5_1: _Block(0, 9.2, 2, -15.5),
    Kind.Q8_0: _Block(0, 74),
    Kind.Q2_K: _Block(80, 14, 82, 1.5),
    Kind.Q3_K: _Block(108, 42),
    Kind.Q4_K: _Block(0, 258, 2, 7.5),
    Kind.Q5_K: _Block(0, 533, 2, 15.5),
    Kind.Q6_K: _Block(208, 1366),
}

# The quantization of most matrices, of every second layer's attn_v and ffn_down, and of the output: nearly as
# llama-quantize mixes them.
MIXES = {
    "Q2_K": (Kind.Q2_K, Kind.Q3_K, Kind.Q6_K),
    "Q3_K_M": (Kind.Q3_K, Kind.Q4_K, Kind.Q6_K),
    "Q4_0": (Kind.Q4_0, Kind.Q4_0, Kind.Q6_K),
    "Q4_1": (Kind.Q4_1, Kind.Q4_1, Kind.Q6_K),
    "Q4_K_M": (Kind.Q4_K, Kind.Q6_K, Kind.Q6_K),
    "Q5_0": (Kind.Q5_0, Kind.Q5_0, Kind.Q6_K),
    "Q5_1": (Kind.Q5_1, Kind.Q5_1, Kind.Q6_K),
    "Q5_K_M": (Kind.Q5_K, Kind.Q6_K, Kind.Q6_K),
    "Q6_K": (Kind.Q6_K, Kind.Q6_K, Kind.Q6_K),
    "Q8_0": (Kind.Q8_0, Kind.Q8_0, Kind.Q8_0),
    "F16": (Kind.F16, Kind.F16, Kind.F16),
}


def write_model(path: Path, shape: Shape, mix: str, *, context: int = 2048) -> None:
    """Write a file that both engines run, quantized as `mix`, one of MIXES, for a context of so many tokens."""
    most, some, output = MIXES[mix]
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, shape.vocabulary)

    def matrix(name: str, rows: int, columns: int, kind: Kind) -> None:
        writer.add_tensor(f"{name}.weight", random_matrix(random, rows, columns, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))

    width, keys = shape.width, shape.width // shape.heads * shape.kv_heads
    matrix("token_embd", shape.vocabulary, width, most)
    for layer in range(shape.layers):
        block, kind = f"blk.{layer}", some if layer % 2 else most
        norm(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", width, width, most)
        matrix(f"{block}.attn_k", keys, width, most)
        matrix(f"{block}.attn_v", keys, width, kind)
        matrix(f"{block}.attn_output", width, width, most)
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate", shape.feed_forward, width, most)
        matrix(f"{block}.ffn_up", shape.feed_forward, width, most)
        matrix(f"{block}.ffn_down", width, shape.feed_forward, kind)
    norm("output_norm")
    matrix("output", shape.vocabulary, width, output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Return a vocabulary in SentencePiece's form: three control tokens, 256 bytes, and words."""
    control = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(_BYTE_TOKENS)]
    words = [f"\u2581w{number}" for number in range(size - len(control) - len(bytes_))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*control, *bytes_, *words])
    writer.add_token_scores([0.0] * (size - len(words)) + [-float(number) for number in range(len(words))])
    writer.add_token_types([_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * len(bytes_) + [_NORMAL] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def random_matrix(random: np.random.Generator, rows: int, columns: int, kind: Kind) -> NDArray[np.generic]:
    if kind is Kind.F16:
        return (random.standard_normal((rows, columns), np.float32) * _WEIGHT).astype(np.float16)
    weights, nbytes = GGML_QUANT_SIZES[kind]
    block = _BLOCKS[kind]
    raw = np.frombuffer(random.bytes(rows * columns // weights * nbytes), np.uint8).reshape(-1, nbytes).copy()
    scale = _WEIGHT / block.deviation
    raw[:, block.scale_at : block.scale_at + 2] = _half(scale)
    if block.minimum_at is not None:
        raw[:, block.minimum_at : block.minimum_at + 2] = _half(scale * block.minimum)
    return raw.reshape(rows, -1)


def _half(value: float) -> NDArray[np.uint8]:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)
