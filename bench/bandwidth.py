"""How fast memory can be read: no decode loop is faster than its weights can be read once a token."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ggserve.modelfile.gguf import read_gguf

BYTES = 512 << 20  # more than any processor's cache
TRIES = 6


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read from memory together, best of several tries."""
    # Zeros from the allocator would all be one physical page.
    numbers = np.ones(BYTES // 4, dtype=np.float32)
    parts = np.array_split(numbers, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as workers:
        for _ in range(TRIES):
            started = time.perf_counter()
            list(workers.map(np.max, parts))  # numpy lets go of the GIL meanwhile
            best = min(best, time.perf_counter() - started)
    return BYTES / best


def bytes_per_token(model: Path) -> int:
    """The weights that one token needs: all, but for the embeddings, of which it needs one row, unless the output is
    made with them too.

    The key-value cache comes on top: little in a short text.
    """
    tensors = read_gguf(model).tensors
    tied = "output.weight" not in tensors
    return sum(tensor.nbytes for name, tensor in tensors.items() if tied or name != "token_embd.weight")
