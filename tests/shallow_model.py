"""The first layers of a model, for tests that need answers in a grammar, not wise ones."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.gguf_writer import NewTensor, field_of, plan_gguf, write_gguf

LAYERS = 2
_COUNT = "llama.block_count"


def write_shallow_model(
    source: Path, target: Path, metadata: Mapping[str, Any] = MappingProxyType({}), *, layers: int = LAYERS
) -> Path:
    """Writes the file with so many layers, and more metadata; returns its path."""
    file = read_gguf(source)
    with source.open("rb") as reader:
        original = reader.read(file.data_offset)
    kept = [
        NewTensor(tensor.name, tensor.shape, tensor.type, tensor.nbytes, tensor)
        for tensor in file.tensors.values()
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers
    ]
    plan = plan_gguf(
        source,
        file.fields | {_COUNT: field_of(layers)} | {key: field_of(value) for key, value in metadata.items()},
        kept,
        encoded={
            key: original[field.start : field.end]
            for key, field in file.fields.items()
            if key not in {_COUNT, *metadata}
        },
        version=file.version,
        alignment=file.alignment,
    )
    write_gguf(plan, target, progress=False)
    return target
