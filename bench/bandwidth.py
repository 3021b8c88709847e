"""Memory bandwidth. No decode loop is faster than reading its weights once per token."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ggserve.modelfile.gguf import read_gguf

BYTES = 512 << 20  # more than any processor's cache
TRIES = 6


def read_bandwidth(threads: int) -> float:
    """Return the bytes per second that `threads` threads read from memory together, the best of several tries."""
    # Zeros from the allocator would all be one physical page.
    numbers = np.ones(BYTES // 4, dtype=np.float32)
    parts = np.array_split(numbers, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as workers:
        for _ in range(TRIES):
            started = time.perf_counter()
            list(workers.map(np.max, parts))  # numpy releases the GIL meanwhile
            best = min(best, time.perf_counter() - started)
    return BYTES / best


def bytes_per_token(model: Path) -> int:
    """Return the bytes of weights that one token needs: one row of the embeddings, unless the output uses all of them,
    and everything else.

    The KV cache comes on top; it is small in a short text.
    """
    tensors = read_gguf(model).tensors
    tied = "output.weight" not in tensors
    return sum(tensor.nbytes for name, tensor in tensors.items() if tied or name != "token_embd.weight")
