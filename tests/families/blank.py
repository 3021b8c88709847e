"""Writes legacy files of any family and size, with weights of zero: for sizes and damage, not for tokens."""

import struct
from pathlib import Path
from typing import Any

from ggserve.modelfile.legacy.layout import FAMILIES, Layout, row_length
from ggserve.modelfile.legacy.layouts import LAYOUTS

_NUMBERS = {b"ggml": 0x67676D6C, b"ggmf": 0x67676D66, b"ggjt": 0x67676A74, b"ggcc": 0x67676363}
SIZES: dict[str, Any] = {
    "n_vocab": 300,
    "n_ctx": 64,
    "n_embd": 32,
    "n_head": 2,
    "n_head_kv": 1,
    "n_layer": 2,
    "n_rot": 16,
    "n_mult": 32,
    "par_res": 1,
    "falcon_type": 7,
    "alibi_bias_max": 8.0,
    "clip_qkv": 0.0,
    "ftype": 0,
    "n_bpe_merges": 32,
}
_OTHER_NAMES = {"d_model": "n_embd", "max_seq_len": "n_ctx", "n_heads": "n_head", "n_layers": "n_layer"}


def layout_of(family: str) -> Layout:
    return next(layout for layout in LAYOUTS if family in layout.families)


def tokens(count: int) -> list[bytes]:
    """A byte-level vocabulary: 12 that are never merged, the bytes, pairs of letters."""
    found = [b"<|endoftext|>", *(b">>X%d<<" % i for i in range(11)), *(bytes([byte]) for byte in range(256))]
    pairs = (bytes([a, b]) for a in range(97, 123) for b in range(97, 123))
    while len(found) < count:
        found.append(next(pairs, None) or b"token %d" % len(found))
    return found[:count]


def write(
    path: Path,
    family: str,
    *,
    magic: bytes | None = None,
    version: int | None = None,
    texts: list[bytes] | None = None,
    **sizes: Any,
) -> Path:
    """A valid file, with `sizes` in place of SIZES and `texts` for tokens. Its weights are holes in the file."""
    assert family in FAMILIES
    layout = layout_of(family)
    if magic is None:
        magic, version = {"falcon": (b"ggcc", 10), "llama": (b"ggjt", 3)}.get(family, (b"ggml", None))
    name = magic.decode()
    values = {key: (SIZES | sizes)[_OTHER_NAMES.get(key, key)] for key in layout.hyperparameters(name)}
    header = layout.header(values, name, version)
    texts = texts or tokens(header.n_vocab)
    if family == "mpt":
        texts = [text.decode("latin-1").encode() for text in texts]
    with path.open("wb") as file:
        file.write(struct.pack("<I", _NUMBERS[magic]) + (b"" if version is None else struct.pack("<i", version)))
        for key, value in values.items():
            file.write(struct.pack("<f" if key in layout.float_keys else "<i", value))
        if layout.counts_tokens:
            file.write(struct.pack("<i", header.n_vocab))
        for text in texts:
            file.write(struct.pack("<i", len(text)) + text + (struct.pack("<f", -1.0) if layout.scored(name) else b""))
        if name == "ggcc":
            file.write(struct.pack("<i", values["n_bpe_merges"]))
            for text in texts[268 : 268 + values["n_bpe_merges"]]:
                file.write(b"".join(struct.pack("<i", 1) + text[i : i + 1] for i in range(2)))
        norms, matrices = layout.tensors(header)
        kind = header.matrix_type or 0
        for tensor, shape in (norms | matrices).items():
            this = kind if tensor in matrices else 0
            file.write(struct.pack(f"<{3 + len(shape)}i", len(shape), len(tensor), this, *shape) + tensor.encode())
            if name in ("ggjt", "ggcc"):
                file.seek(-file.tell() % 32, 1)
            file.seek(row_length(shape, this), 1)
        file.truncate(file.tell())
    return path
