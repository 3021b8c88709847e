"""`python -m bench.legacy`: legacy GGML files on ctransformers, and converted to GGUF on llama.cpp.

Makes files of 2023's layouts with random weights in a temporary folder, converts each, measures both engines in turns,
and writes the figures to engines.json next to this file. `--table` only prints the existing figures.
"""

import argparse
import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from bench.engine_report import Tries, table
from bench.engines import RESULTS, measure
from bench.machine import machine
from bench.synthetic import random_matrix
from ggserve.machine import usable_cores
from ggserve.modelfile.convert import convert

Matrix = tuple[str, int, int]  # name, rows, columns; one row: a norm or a bias
Layout = tuple[bytes, int, list[Matrix]]  # the part before the tensors, the alignment of their data, and the tensors

_CONTEXT = 2048  # tokens
_FTYPE = {Kind.Q4_0: 2, Kind.Q8_0: 7, Kind.F16: 1}  # ggml's numbers for the type of most weights
_BLOCKS_OF_JUNE_2023 = 2000  # added to the file type by all families but LLaMA


def llama(kind: Kind) -> Layout:
    """0.4B: TinyLlama's width, 6 layers, all heads with their own keys; ggjt version 3."""
    width, layers, heads, feed_forward, vocabulary = 2048, 6, 32, 5632, 32000
    words = [b"<unk>", b"<s>", b"</s>"] + [bytes([byte]) for byte in range(256)]
    words += [f" w{number}".encode() for number in range(vocabulary - len(words))]
    head = struct.pack("<II7i", 0x67676A74, 3, vocabulary, width, 256, heads, layers, width // heads, _FTYPE[kind])
    head += b"".join(_counted(word) + struct.pack("<f", -float(number)) for number, word in enumerate(words))
    matrices = [("tok_embeddings", vocabulary, width), ("norm", 1, width), ("output", vocabulary, width)]
    for layer in range(layers):
        matrices += [(f"layers.{layer}.{name}", 1, width) for name in ("attention_norm", "ffn_norm")]
        matrices += [(f"layers.{layer}.attention.{name}", width, width) for name in ("wq", "wk", "wv", "wo")]
        matrices += [(f"layers.{layer}.feed_forward.{name}", feed_forward, width) for name in ("w1", "w3")]
        matrices.append((f"layers.{layer}.feed_forward.w2", width, feed_forward))
    return head, 32, [(f"{name}.weight", rows, columns) for name, rows, columns in matrices]


def gptneox(kind: Kind) -> Layout:
    """Pythia-410m's shape."""
    width, layers, heads, vocabulary = 1024, 24, 16, 50304
    words = [b"<|endoftext|>"] + [bytes([byte]) for byte in range(128)]
    words += [f" w{number}".encode() for number in range(vocabulary - len(words))]
    sizes = (vocabulary, _CONTEXT, width, heads, layers, width // heads // 4, 1, _file_type(kind))
    head = struct.pack("<I8i", 0x67676D6C, *sizes) + b"".join(map(_counted, words))
    matrices = [("gpt_neox.embed_in.weight", vocabulary, width), ("embed_out.weight", vocabulary, width)]
    matrices += [(f"gpt_neox.final_layer_norm.{part}", 1, width) for part in ("weight", "bias")]
    for layer in range(layers):
        block = f"gpt_neox.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            matrices += [(f"{block}.{norm}.{part}", 1, width) for part in ("weight", "bias")]
        for name, rows, columns in (
            ("attention.query_key_value", 3 * width, width),
            ("attention.dense", width, width),
            ("mlp.dense_h_to_4h", 4 * width, width),
            ("mlp.dense_4h_to_h", width, 4 * width),
        ):
            matrices += [(f"{block}.{name}.weight", rows, columns), (f"{block}.{name}.bias", 1, rows)]
    return head, 1, matrices


FAMILIES: dict[str, Callable[[Kind], Layout]] = {"llama": llama, "gptneox": gptneox}
KINDS = (Kind.Q4_0, Kind.Q8_0, Kind.F16)


def _file_type(kind: Kind) -> int:
    return _FTYPE[kind] + (0 if kind is Kind.F16 else _BLOCKS_OF_JUNE_2023)


def _counted(data: bytes) -> bytes:
    return struct.pack("<i", len(data)) + data


def write_legacy(path: Path, layout: Layout, kind: Kind) -> None:
    """Write the file: each tensor's sizes, name and data, one after the other."""
    head, alignment, matrices = layout
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(head)
        for name, rows, columns in matrices:
            vector = rows == 1
            data: NDArray[np.generic]
            if vector:
                data = np.full(columns, 0 if name.endswith("bias") else 1, np.float32)
            else:
                data = random_matrix(random, rows, columns, kind)
            sizes = (columns,) if vector else (columns, rows)
            number = Kind.F32 if vector else kind
            file.write(struct.pack(f"<3i{len(sizes)}i", len(sizes), len(name), number, *sizes) + name.encode())
            file.write(bytes(-file.tell() % alignment) + data.tobytes())


def measured(rounds: int, threads: int) -> Iterator[tuple[str, str, dict[str, Tries]]]:
    """Yield family, quantization, and the figures of both engines."""
    for family, layout in FAMILIES.items():
        for kind in KINDS:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                old, new = Path(folder) / f"{family}-{kind.name}.bin", Path(folder) / "converted.gguf"
                write_legacy(old, layout(kind), kind)
                started = time.perf_counter()
                convert(old, new, model_type=family, progress=False)
                seconds = time.perf_counter() - started
                print(f"{family} {kind.name}: {old.stat().st_size / 1e6:.0f} MB converted in {seconds:.2f} s")
                yield family, kind.name, measure({"ctransformers": old, "llama.cpp": new}, rounds, threads)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.legacy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="number of loads of each engine (default: 2)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="number of compute threads (default: usable cores)"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text())
    if not options.table:
        figures: dict[str, dict[str, dict[str, Tries]]] = {}
        for family, kind, tries in measured(options.rounds, options.threads):
            figures.setdefault(f"{family}, legacy", {})[kind] = tries
            print(f"{family} {kind} measured", file=sys.stderr, flush=True)
            results["legacy"] = {"machine": machine(), "figures": figures}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["legacy"]["figures"]))


if __name__ == "__main__":
    main()
