"""Changes of tiny files, and the reaction of ctransformers in a process of its own."""

import math
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggserve.modelfile.tensor_types import TENSOR_TYPES
from tests.modelfile import tiny_gguf as tiny

Change = Callable[[tiny.Spec], object]
LOADER = Path(__file__).parent / "accepts/load_files.py"
runs_avx2 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 library")


def put(key: str, kind: int, content: object) -> Change:
    return lambda spec: spec.fields.__setitem__(key, (kind, content))


def drop(key: str) -> Change:
    return lambda spec: spec.fields.pop(key)


def add(name: str, *shape: int) -> Change:
    return lambda spec: spec.tensors.__setitem__(name, tiny.f32(*shape))


def lose(name: str) -> Change:
    return lambda spec: spec.tensors.pop(name)


def retype(name: str, kind: int) -> Change:
    def change(spec: tiny.Spec) -> None:
        shape = spec.tensors[name].shape
        block = TENSOR_TYPES[kind]
        spec.tensors[name] = tiny.Tensor(shape, kind, bytes(math.prod(shape) // block.block * block.nbytes))

    return change


def items(key: str, change: Callable[[list], list], item: int | None = None) -> Change:
    def edit(spec: tiny.Spec) -> None:
        array = spec.fields[key][1]
        spec.fields[key] = (
            tiny.ARRAY,
            tiny.Array(array.item if item is None else item, change(list(array.values))),
        )

    return edit


def outcomes(paths: list[Path]) -> list[str]:
    """Return the result of each file in ctransformers: "finite" (so are its logits), "ran" or "refused"."""
    done = subprocess.run(
        [sys.executable, LOADER],
        input="\0".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"died with {done.returncode} at {lines[-1:]}: {done.stderr[-300:]}"
    assert len(lines) == len(paths)
    return [line.split()[-1] for line in lines]
