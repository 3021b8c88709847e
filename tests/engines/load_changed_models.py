"""Loads tiny models with one value changed in each, in this process; run as a program. Prints each change first, so
that the last line tells which one ended it."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggserve.errors import EngineError, ModelFileError
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.gguf_header import ValueType
from ggserve.modelfile.tensor_types import TENSOR_TYPES
from tests.answers import answer
from tests.engines.tiny_models import write_tiny_model
from tests.modelfile.tiny_gguf import Array, Spec, Tensor

NUMBERS: dict[ValueType, tuple[Any, ...]] = {
    ValueType.UINT32: (0, 7, 2**32 - 1),
    ValueType.INT32: (0, -1),
    ValueType.FLOAT32: (0.0, -1.0, float("nan")),
}
TYPES = (1, 7, 9, 26)  # F16, Q5_1, Q8_1, I32
TRANSFORMED = ("block_count", "head_count", "pooling_type", "token_id", "epsilon", "context_length", "dimension_count")


def spec_of(path: Path) -> Spec:
    file, raw = read_gguf(path), path.read_bytes()
    spec = Spec()
    for key, field in file.fields.items():
        if field.type is ValueType.ARRAY:
            spec.fields[key] = (ValueType.ARRAY, Array(int(field.item_type or 0), list(field.value)))
        else:
            spec.fields[key] = (int(field.type), field.value)
    for name, tensor in file.tensors.items():
        content = raw[tensor.offset : tensor.offset + tensor.nbytes]
        spec.tensors[name] = Tensor(tensor.shape, tensor.type, content)
    return spec


def changes(spec: Spec) -> Iterator[tuple[str, Spec]]:
    for key, (kind, value) in spec.fields.items():
        others = {name: field for name, field in spec.fields.items() if name != key}
        if any(word in key for word in TRANSFORMED):
            yield f"without {key}", Spec(others, spec.tensors)
            for number in NUMBERS.get(ValueType(kind), ()):
                yield f"{key} {number}", Spec({**others, key: (kind, number)}, spec.tensors)
        if kind == ValueType.ARRAY:
            for length in (0, len(value.values) // 2):
                yield (
                    f"{key}[:{length}]",
                    Spec({**others, key: (kind, Array(value.item, value.values[:length]))}, spec.tensors),
                )
            if value.item == ValueType.STRING:
                same = Array(value.item, [b"\xff\xfe"] * len(value.values))
                yield f"{key} all the same", Spec({**others, key: (kind, same)}, spec.tensors)
    for name, tensor in spec.tensors.items():
        if name.startswith("blk.1."):
            continue
        others_of = {other: t for other, t in spec.tensors.items() if other != name}
        yield f"without {name}", Spec(spec.fields, others_of)
        for kind in TYPES:
            layout = TENSOR_TYPES[kind]
            if tensor.shape[0] % layout.block == 0 and kind != tensor.type:
                content = bytes(math.prod(tensor.shape) // layout.block * layout.nbytes)
                retyped = Tensor(tensor.shape, kind, content)
                yield f"{name} as {layout.name}", Spec(spec.fields, {**others_of, name: retyped})
        yield (
            f"{name} transposed",
            Spec(spec.fields, {**others_of, name: Tensor(tensor.shape[::-1], tensor.type, tensor.content)}),
        )


def main(folder: Path) -> None:
    for architecture in ("qwen2", "bert"):
        spec = spec_of(write_tiny_model(folder, architecture))
        for change, changed in changes(spec):
            print(architecture, change, flush=True)
            try:
                model = GGUFModel(changed.write(folder / "changed.gguf"), threads=1, parallel=1)
            except (ModelFileError, EngineError):
                continue
            try:
                if "generation" in model.features:
                    answer(model.complete([5, 6, 7], SamplingParams(max_tokens=2)))
            except EngineError:
                pass
            finally:
                model.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
