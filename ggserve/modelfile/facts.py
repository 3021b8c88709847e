"""What people and programs want to know of a model file: how many weights it has, how they are stored, its metadata."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ggserve.modelfile.file import ModelFile, chat_template


@dataclass(frozen=True)
class ModelFacts:
    """The facts of one file."""

    format: str  # "gguf" or "ggml"
    architecture: str
    parameters: int  # weights
    quantization: str  # the type of tensor that takes the most bytes, such as "Q4_K"
    chat_template: str | None
    metadata: dict[str, Any] = field(default_factory=dict)  # single values and short texts, by GGUF's keys


def model_facts(file: ModelFile) -> ModelFacts:
    """The facts of a checked header. Raises ModelFileError where its chat template is no text."""
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
    """How many there are, and the bytes that each type of tensor takes."""
    nbytes = Counter[str]()
    for tensor in file.tensors.values():
        nbytes[tensor.type_name] += tensor.nbytes
    return sum(prod(tensor.shape) for tensor in file.tensors.values()), nbytes


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
