"""Which engine answers faster from a file that both run: what `python -m bench.engines` measured, and the rule."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from modelfile.gguf import GGUFFile

# How many times as fast as ctransformers llama.cpp is for a prompt of 256 tokens and an answer of 128: alone, and four
# at a time. First of files with less than _LARGE weights, then of larger ones; by the type of most of a file's bytes.
GAINS = {
    "Q2_K": ((1.11, 1.63), (1.86, 1.77)),
    "Q3_K": ((1.29, 1.68), (2.1, 1.89)),
    "Q4_0": ((2.06, 1.45), (1.81, 1.7)),
    "Q4_1": ((0.88, 1.25), (1.26, 1.25)),
    "Q4_K": ((1.31, 2.2), (1.8, 1.71)),
    "Q5_0": ((1.05, 1.37), (1.92, 2.28)),
    "Q5_1": ((0.96, 1.12), (1.32, 1.09)),
    "Q5_K": ((1.3, 1.66), (1.9, 1.81)),
    "Q6_K": ((1.39, 1.56), (1.83, 1.97)),
    "Q8_0": ((1.24, 1.18), (1.63, 1.31)),
    "F16": ((1.06, 1.27), (1.55, 1.45)),
}
_LARGE = 250_000_000
_TIE = 1.05


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times as fast llama.cpp is, and for which type of weights that was measured."""

    factor: float
    type_name: str

    @property
    def counts(self) -> bool:
        """Whether llama.cpp is the faster one. A tie is none."""
        return self.factor > _TIE

    def __str__(self) -> str:
        return f"{self.factor:.1f} times as fast for {self.type_name}"


def llama_cpp_gain(file: GGUFFile, slots: int | None) -> Gain:
    """What llama.cpp gains with so many answers at the same time (None: several)."""
    nbytes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        nbytes[tensor.type_name] += tensor.nbytes
    type_name = next((name for name, _ in nbytes.most_common() if name in GAINS), "F16")
    return measured_gain(type_name, sum(prod(tensor.shape) for tensor in file.tensors.values()) >= _LARGE, slots)


def measured_gain(type_name: str, large: bool, slots: int | None) -> Gain:
    """The rule itself."""
    return Gain(GAINS[type_name][large][slots != 1], type_name)
