"""Facts about a model file: the number of weights, their quantization and the metadata."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ggserve.modelfile.file import ModelFile, chat_template

# llama.cpp's `general.file_type`, which tells a mixture of tensor types.
_FILE_TYPES: dict[Any, str] = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4"), 36)),
}
_WINDOW = ".attention.sliding_window"  # tokens
_FORGETTING = (_WINDOW, ".ssm.state_size", ".wkv.head_size")  # keys of such layers


@dataclass(frozen=True)
class ModelFacts:
    """The facts about one file."""

    format: str  # "gguf" or "ggml"
    architecture: str
    parameters: int  # weights
    quantization: str  # the file type, such as "Q4_K_M", or else the tensor type with the most bytes
    chat_template: str | None
    metadata: dict[str, Any] = field(default_factory=dict)  # scalars and strings, by GGUF key

    @property
    def rewinds(self) -> bool:
        """True if its KV cache can go back to any token, which sliding windows and recurrent layers cannot."""
        return not any(key.endswith(_FORGETTING) and value for key, value in self.metadata.items())

    @property
    def sliding_window(self) -> int:
        """The tokens of its sliding window; 0 without one."""
        windows = (value for key, value in self.metadata.items() if key.endswith(_WINDOW))
        return max((value for value in windows if isinstance(value, int)), default=0)


def model_facts(file: ModelFile) -> ModelFacts:
    """Return the facts in a checked header. Raises ModelFileError if its chat template is not a string."""
    count, nbytes = weights(file)
    return ModelFacts(
        "gguf" if file.format.startswith("GGUF") else "ggml",
        file.architecture,
        count,
        _FILE_TYPES.get(file.get("general.file_type")) or (nbytes.most_common(1)[0][0] if nbytes else ""),
        chat_template(file),
        {key: value for key in file.metadata_keys() if _is_plain(value := file.get(key)) and "template" not in key},
    )


def weights(file: ModelFile) -> tuple[int, Counter[str]]:
    """Return the number of weights and the bytes that each tensor type takes."""
    nbytes = Counter[str]()
    for tensor in file.tensors.values():
        nbytes[tensor.type_name] += tensor.nbytes
    return sum(prod(tensor.shape) for tensor in file.tensors.values()), nbytes


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


# GGUF's keys for recommended sampling parameters: the parameter, its minimum and its maximum.
_SAMPLING: dict[str, tuple[str, float, float]] = {
    "temp": ("temperature", 0, 2),
    "top_k": ("top_k", 0, 1_000_000),
    "top_p": ("top_p", 0, 1),
    "min_p": ("min_p", 0, 1),
    "penalty_repeat": ("repetition_penalty", 0.01, 10),
}


def file_sampling(facts: ModelFacts) -> dict[str, Any]:
    """Return the default sampling parameters that the file recommends (`general.sampling.*`)."""
    found = {}
    for key, (name, least, most) in _SAMPLING.items():
        value = facts.metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            found[name] = int(value) if name == "top_k" else float(value)
    return found
