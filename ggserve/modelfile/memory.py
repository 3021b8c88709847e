"""The context length, its memory, and the number of parallel slots that fit, for every file format."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.file import ModelFile
from ggserve.modelfile.legacy.buffers import EvalLimits, buffer_bytes, eval_limits, weight_bytes
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.layout import kv_cache_bytes
from ggserve.modelfile.legacy.layouts import layout_of
from ggserve.modelfile.tensor_types import TENSOR_TYPES

log = logging.getLogger("ggserve.model")

_DEFAULT_CONTEXT = 4096  # tokens; the model's own length if that is shorter
DEFAULT_SLOTS = 4  # parallel requests, if PARALLEL is not set
_CACHE_SHARE = 4  # the default number of slots fits their KV caches into 1/4 of the memory
_STRETCHABLE = ("llama", "falcon")  # legacy families without a fixed number of positions
_SHORTEST_CONTEXT = 8  # tokens


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory that a model takes. `evals` keeps the evals of a legacy model within its loader's buffers."""

    context_length: int  # tokens of one slot
    slots: int  # parallel requests
    slot_bytes: int  # per slot: the KV cache; for a legacy file, weights and buffers too
    evals: EvalLimits | None = None


def plan_memory(
    file: ModelFile,
    *,
    context_length: int | None,
    slots: int | None,
    memory: int,
    uses_gpu: bool,
    shares_gpu: bool,
    cache_type: str = "f16",
    draft: ModelFile | None = None,
) -> MemoryPlan:
    """Return the plan for the requested context length and slots. None means a default that fits into `memory` bytes.

    `shares_gpu`: the engine can run several requests on a GPU. `cache_type`: the KV cache type for a GGUF file.
    `draft`: a draft model with its own KV cache. Raises ModelFileError if not even one slot fits.
    """
    trained = int(file.get(f"{file.architecture}.context_length"))
    length = context_length or min(trained, _DEFAULT_CONTEXT)
    token_bytes = cache_bytes_per_token(file, cache_type) + (cache_bytes_per_token(draft) if draft else 0)
    plan = MemoryPlan(length, 1, int(token_bytes * length))
    if isinstance(file, GGMLFile):
        plan = _legacy_plan(file, length)
    elif length > trained and "position_embd.weight" in file.tensors:  # llama.cpp would read past the end of it
        raise ModelFileError(
            f"CONTEXT_LENGTH={length} is more than the {trained} positions of this model: set it lower"
        )
    elif length > trained:
        log.warning("CONTEXT_LENGTH=%d is more than the %d tokens that the model was trained on", length, trained)
    if plan.slot_bytes > memory:
        raise ModelFileError(
            f"{file.path.name} needs {plan.slot_bytes / 1e9:.1f} GB for a context of {plan.context_length} tokens, but "
            f"only {memory / 1e9:.1f} GB are available: set CONTEXT_LENGTH lower"
        )
    if uses_gpu and not shares_gpu:
        if slots and slots > 1:
            log.warning("PARALLEL=%d has no effect: on a GPU, ctransformers runs one request at a time", slots)
        return plan
    if slots is None:  # a legacy file's weights are copied for each slot
        alone = uses_gpu or isinstance(file, GGMLFile)
        fit = memory // _CACHE_SHARE // max(1, plan.slot_bytes)
        slots = 1 if alone else max(1, min(DEFAULT_SLOTS, fit))
    return replace(plan, slots=slots)


def cache_bytes_per_token(file: ModelFile, cache_type: str = "f16") -> float:
    """Return the KV cache bytes per token: keys and values of all layers. `cache_type` is a tensor type's name; legacy
    families have a fixed one."""
    if isinstance(file, GGMLFile):
        return kv_cache_bytes(layout_of(file.family), file.header) // file.header.n_ctx

    def largest(name: str, default: int) -> int:
        value = file.get(f"{file.architecture}.{name}", default)  # some architectures have one per layer
        return int(np.max(value)) if np.size(value) else default

    heads = max(1, largest("attention.head_count", 1))
    width = largest("embedding_length", 0) // heads
    keys, values = largest("attention.key_length", width), largest("attention.value_length", width)
    numbers = (keys + values) * largest("attention.head_count_kv", heads) * largest("block_count", 0)
    kind = next(kind for kind in TENSOR_TYPES.values() if kind.name.lower() == cache_type)
    return numbers * kind.nbytes / kind.block


def _legacy_plan(file: GGMLFile, length: int) -> MemoryPlan:
    """Return a plan within the limits of the family's loader. LLaMA and Falcon map their weights; the others copy
    them."""
    header = file.header
    if length > header.n_ctx and file.family not in _STRETCHABLE:
        raise ModelFileError(
            f"CONTEXT_LENGTH={length} is more than the {header.n_ctx} positions of this model: set it lower"
        )
    limits = eval_limits(file, length)
    if limits.context_length < _SHORTEST_CONTEXT or limits.chunk < 1:
        raise ModelFileError(
            f"{file.path.name}: {file.family} has compute buffers of 256 MiB, too small for layers this wide"
        )
    if limits.context_length < length:
        log.warning(
            "%s has compute buffers of 256 MiB: the context is reduced to %d tokens", file.family, limits.context_length
        )
    cached = header.n_ctx if header.fixed_context else limits.context_length
    nbytes = int(cache_bytes_per_token(file)) * cached + buffer_bytes(file, limits)
    if file.family not in _STRETCHABLE:
        nbytes += weight_bytes(file)
    return MemoryPlan(limits.context_length, 1, nbytes, limits)
