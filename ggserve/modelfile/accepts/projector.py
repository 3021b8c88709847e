"""Decide whether it is safe to give an image projector to llama.cpp.

It loads a projector with invalid numbers, and a failed assertion ends the process at the first image.
"""

import math
from collections.abc import Iterator

import numpy as np

from ggserve.modelfile.gguf import GGUFFile

_ARCHITECTURE = "clip"
_MOST = 1 << 20  # the largest valid size
_SIZES = {  # sizes and their minimum
    "image_size": 1,
    "patch_size": 1,
    "embedding_length": 1,
    "feed_forward_length": 0,
    "block_count": 0,
    "attention.head_count": 1,
}


def projector_objection(gguf: GGUFFile) -> str | None:
    """Return None if llama.cpp can load the projector safely, else one line that names the key at fault."""
    return next(_objections(gguf), None)


def _objections(gguf: GGUFFile) -> Iterator[str]:
    if gguf.architecture != _ARCHITECTURE:
        yield f"general.architecture: {gguf.architecture!r}, but a projector has {_ARCHITECTURE!r}"
    if gguf.get("clip.has_vision_encoder") is not True:
        yield "clip.has_vision_encoder: an audio projector; only image projectors are supported"
    for name, least in _SIZES.items():
        key = f"clip.vision.{name}"
        value = gguf.get(key)
        if isinstance(value, int) and not least <= value <= _MOST:
            yield f"{key}: {value} is not between {least} and {_MOST}"
    patch, side = (gguf.get(f"clip.vision.{name}") for name in ("patch_size", "image_size"))
    if isinstance(patch, int) and isinstance(side, int) and patch > side:
        yield f"clip.vision.patch_size: {patch} is more than the image size {side}"
    kernel = gguf.tensors.get("v.patch_embd.weight")
    if kernel is not None and len(kernel.shape) == 4 and isinstance(patch, int) and kernel.shape[:2] != (patch, patch):
        yield f"v.patch_embd.weight: has shape {list(kernel.shape)}, but patch_size is {patch}"
    heads, width = (gguf.get(f"clip.vision.{name}") for name in ("attention.head_count", "embedding_length"))
    if isinstance(heads, int) and isinstance(width, int) and width % heads:
        yield f"clip.vision.attention.head_count: {width} is not a multiple of {heads}"
    for key, field in gguf.fields.items():
        if key.startswith("clip.") and isinstance(field.value, float):
            epsilon = key.endswith("epsilon")
            if not math.isfinite(field.value) or (epsilon and not 0 <= field.value < 1):
                yield f"{key}: {field.value}"
    for name in ("image_mean", "image_std"):
        key = f"clip.vision.{name}"
        values = gguf.get(key)
        if values is not None and not (
            isinstance(values, np.ndarray) and _are_color_values(values, name == "image_std")
        ):
            yield f"{key}: not three non-zero numbers" if name == "image_std" else f"{key}: not three numbers"


def _are_color_values(values: np.ndarray, divides: bool) -> bool:
    return values.shape == (3,) and bool(np.isfinite(values).all()) and not (divides and (values == 0).any())
