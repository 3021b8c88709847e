"""The faster engine for a file that both run: the measurements of `python -m bench.engines`, and the rule."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from ggserve.modelfile.gguf import GGUFFile

# How many times as fast as ctransformers llama.cpp is for a prompt of 256 tokens and an answer of 128: alone, and four
# at a time. First for files with less than _LARGE weights, then for larger ones; by the type of most of a file's bytes.
# Means of two machines, an Intel Xeon (Sapphire Rapids) and an AMD EPYC (AVX2).
GAINS = {
    "Q2_K": ((1.19, 1.53), (1.82, 1.72)),
    "Q3_K": ((1.33, 1.51), (1.97, 1.72)),
    "Q4_0": ((1.92, 1.87), (1.9, 1.82)),
    "Q4_1": ((0.93, 1.13), (1.19, 1.12)),
    "Q4_K": ((1.24, 1.76), (1.73, 1.77)),
    "Q5_0": ((1.25, 1.35), (1.63, 1.82)),
    "Q5_1": ((0.94, 1.11), (1.24, 1.12)),
    "Q5_K": ((1.49, 1.67), (1.98, 1.89)),
    "Q6_K": ((1.28, 1.69), (1.79, 1.98)),
    "Q8_0": ((1.16, 1.2), (1.58, 1.4)),
    "F16": ((1.0, 1.21), (1.28, 1.27)),
}
_LARGE = 250_000_000
_TIE = 1.05


@dataclass(frozen=True, slots=True)
class Gain:
    """The speed of llama.cpp relative to ctransformers, and the type of weights that was measured."""

    factor: float
    type_name: str

    @property
    def counts(self) -> bool:
        """Return whether llama.cpp is faster. In a tie it is not."""
        return self.factor > _TIE

    def __str__(self) -> str:
        return f"{self.factor:.1f} times as fast for {self.type_name}"


def llama_cpp_gain(file: GGUFFile, slots: int | None) -> Gain:
    """Return the gain of llama.cpp with this number of answers at the same time (None: several)."""
    nbytes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        nbytes[tensor.type_name] += tensor.nbytes
    type_name = next((name for name, _ in nbytes.most_common() if name in GAINS), "F16")
    return measured_gain(type_name, sum(prod(tensor.shape) for tensor in file.tensors.values()) >= _LARGE, slots)


def measured_gain(type_name: str, large: bool, slots: int | None) -> Gain:
    """Return the gain by the rule."""
    return Gain(GAINS[type_name][large][slots != 1], type_name)
