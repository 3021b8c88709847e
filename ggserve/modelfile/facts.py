"""Facts about a model file: the number of weights, their quantization and the metadata."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ggserve.modelfile.file import ModelFile, chat_template


@dataclass(frozen=True)
class ModelFacts:
    """The facts about one file."""

    format: str  # "gguf" or "ggml"
    architecture: str
    parameters: int  # weights
    quantization: str  # the tensor type with the most bytes, such as "Q4_K"
    chat_template: str | None
    metadata: dict[str, Any] = field(default_factory=dict)  # scalars and strings, by GGUF key


def model_facts(file: ModelFile) -> ModelFacts:
    """Return the facts in a checked header. Raises ModelFileError if its chat template is not a string."""
    count, nbytes = weights(file)
    return ModelFacts(
        "gguf" if file.format.startswith("GGUF") else "ggml",
        file.architecture,
        count,
        nbytes.most_common(1)[0][0] if nbytes else "",
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
