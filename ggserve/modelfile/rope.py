"""Rotary positions (RoPE): how far a GGUF model's context reaches when its positions are scaled.

The user's settings and the file decide together; llama.cpp has the formulas of each scaling.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.file import ModelFile

RopeScaling = Literal["none", "linear", "yarn"]

_LONGEST = 2**31 - 1  # tokens that llama.cpp counts
# Architectures that llama.cpp runs without RoPE, and the families that become them. Others have a `position_embd`.
_NO_ROPE = frozenset({"bloom", "gpt2", "jais", "jina-bert-v2", "mpt", "refact", "replit", "t5", "t5encoder"})
_NO_ROPE |= {"arwkv7", "jamba", "kimi-linear", "mamba", "mamba2", "nemotron_h", "nemotron_h_moe", "rwkv6", "rwkv7"}
_NO_ROPE |= {"gptbigcode", "rwkv6qwen2", "starcoder"}


@dataclass(frozen=True, kw_only=True)
class RopeSettings:
    """The user's settings; llama.cpp only. None leaves the choice to the file."""

    rope_scaling: RopeScaling | None = None
    rope_scale: float | None = None  # factor of the context; None: as CONTEXT_LENGTH needs
    rope_freq_base: float | None = None
    yarn_orig_ctx: int | None = None  # tokens that the model was trained on, without scaling

    @property
    def rope_settings(self) -> Iterator[str]:
        """The settings that are set, as NAME=value."""
        for name in RopeSettings.__dataclass_fields__:
            if (value := getattr(self, name)) is not None:
                yield f"{name.upper()}={value:g}" if isinstance(value, float) else f"{name.upper()}={value}"


@dataclass(frozen=True)
class Rope:
    """The rotation of positions, where the settings differ from the file."""

    scaling: RopeScaling | None  # None: as the file says
    factor: float
    freq_base: float | None  # None: as the file says
    trained: int  # tokens, without scaling
    own_factor: float  # the file's

    @property
    def longest(self) -> int:
        """The tokens of the longest context."""
        return int(round(self.trained * self.factor, 3))  # the product of a quotient can be a little less

    @property
    def freq_scale(self) -> float:
        """The factor of frequencies, float32. llama.cpp derives the longest context from it, and only if it is not the
        file's: it is the next number below 1 / `factor` where the result would be too short."""
        scale = np.float32(1 / self.factor)
        if self.factor == self.own_factor or int(np.float32(self.trained) / scale) < self.longest:
            scale = np.nextafter(scale, np.float32(0))
        return float(scale)

    def __str__(self) -> str:
        parts = []
        if self.scaling is not None:
            scaled = f"{self.scaling} scaling of {self.trained} tokens by {self.factor:g}"
            parts.append("no scaling" if self.scaling == "none" else scaled)
        if self.freq_base is not None:
            parts.append(f"base {self.freq_base:g}")
        return f"RoPE: {', '.join(parts)}"


def check_has_rope(file: ModelFile, wanted: RopeSettings) -> None:
    """Raise ModelFileError if a setting is set and the model has no rotary positions."""
    setting = next(wanted.rope_settings, None)
    if setting and (file.architecture in _NO_ROPE or "position_embd.weight" in file.tensors):
        raise ModelFileError(
            f"{file.path.name}: {setting} cannot be used: {file.architecture!r} models have no rotary positions (RoPE)"
        )


def rope_of(file: ModelFile, wanted: RopeSettings, context_length: int | None) -> Rope | None:
    """Return the rotary positions of a GGUF file; None: as the file says. `context_length`: the setting, in tokens.

    Raises ModelFileError if the settings do not go together.
    """
    settings = list(wanted.rope_settings)
    if not settings:
        return None
    own_length = int(file.get(f"{file.architecture}.context_length"))
    own_factor = _own_factor(file)
    base = wanted.rope_freq_base
    if wanted.rope_scaling in (None, "none"):
        if other := next((each for each in settings if each.startswith(("ROPE_SCALE=", "YARN_ORIG_CTX="))), None):
            raise ModelFileError(f"{other} needs ROPE_SCALING=linear or yarn")
        if base and own_factor == 1 and context_length and context_length > own_length:
            return Rope("linear", 1.0, base, context_length, own_factor)  # the base alone makes it longer
        return Rope(wanted.rope_scaling, 1.0, base, own_length, own_factor)
    trained = wanted.yarn_orig_ctx or int(_positive(file, "scaling.original_context_length", 0))
    if own_factor > 1 and not trained:
        raise ModelFileError(
            f"{file.path.name}: {settings[0]} needs YARN_ORIG_CTX: the file is scaled by {own_factor:g} already, and "
            "does not say how many tokens the model was trained on"
        )
    trained = trained or own_length
    if wanted.rope_scale is None and context_length is None:
        raise ModelFileError(f"{settings[0]} needs CONTEXT_LENGTH or ROPE_SCALE")
    factor = wanted.rope_scale or max(1.0, (context_length or 0) / trained)
    if trained * factor > _LONGEST:
        raise ModelFileError(f"{', '.join(settings)}: a context of {trained * factor:.0f} tokens is too long")
    needless = factor == own_factor == 1 and trained <= own_length
    return Rope("none" if needless else wanted.rope_scaling, factor, base, trained, own_factor)


def _own_factor(file: ModelFile) -> float:
    """Return the factor by which the file itself scales positions."""
    if file.get(f"{file.architecture}.rope.scaling.type", "linear") == "none":
        return 1.0
    return _positive(file, "scaling.factor", _positive(file, "scale_linear", 1.0))


def _positive(file: ModelFile, name: str, default: float) -> float:
    value = file.get(f"{file.architecture}.rope.{name}", default)
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else default
