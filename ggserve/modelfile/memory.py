"""The context length, its memory, and the number of parallel slots that fit, for every file format."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.file import ModelFile, is_embedding_model
from ggserve.modelfile.legacy.buffers import EvalLimits, buffer_bytes, eval_limits, weight_bytes
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.layout import kv_cache_bytes
from ggserve.modelfile.legacy.layouts import layout_of
from ggserve.modelfile.rope import Rope
from ggserve.modelfile.tensor_types import TENSOR_TYPES

log = logging.getLogger("ggserve.model")

_LONGEST = 1 << 20  # tokens of a default context, whatever a file says
_SMALL_CONTEXT = 4096  # tokens: a default context is shorter only where the model's own is, or memory ends
DEFAULT_SLOTS = 4  # answers at the same time, where PARALLEL does not say
_OWN_CACHES = 1 << 30  # bytes up to which each slot has a cache of its own for the whole context
_ROUND = 256  # tokens: a context that memory bounds is a multiple
_STRETCHABLE = ("llama", "falcon")  # legacy families whose files do not fix the number of positions
_SHORTEST_CONTEXT = 8  # tokens


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory that a model takes. `evals` keeps the evals of a legacy model within its loader's buffers."""

    context_length: int  # tokens of one request
    slots: int
    slot_bytes: int  # memory of a KV cache for a whole context, and for a legacy file of weights and buffers too
    shared_tokens: int | None = None  # of the one cache that all slots share; None: each has its own
    evals: EvalLimits | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all KV caches."""
        if self.shared_tokens is None:
            return self.slots * self.slot_bytes
        return self.slot_bytes * self.shared_tokens // self.context_length


def plan_memory(
    file: ModelFile,
    *,
    context_length: int | None,
    slots: int | None,
    memory: int,
    spare: int,
    uses_gpu: bool,
    shares_gpu: bool,
    shares_cache: bool = False,
    goes_beyond: bool = True,
    cache_type: str = "f16",
    draft: ModelFile | None = None,
    rope: Rope | None = None,
) -> MemoryPlan:
    """Return the plan for the wanted sizes (None: what suits the machine), using at most `memory` bytes, and at most
    `spare` bytes for caches of sizes that are not set.

    `shares_gpu`: whether the engine can run several answers on a GPU. `shares_cache`: whether all slots share one
    cache, in which a request uses what others leave. `goes_beyond`: whether the engine evaluates more tokens than a
    GGUF model was trained on. `cache_type`: type of a GGUF file's keys and values. `draft`: a draft model, which has a
    cache of its own. `rope`: rotary positions that differ from the file's.

    Raises ModelFileError if not even one slot fits.
    """
    trained = rope.longest if rope else int(file.get(f"{file.architecture}.context_length"))
    if context_length and context_length > trained and not isinstance(file, GGMLFile):
        context_length = _beyond_training(file, context_length, trained, rope, goes_beyond=goes_beyond)
    token_bytes = cache_bytes_per_token(file, cache_type) + (cache_bytes_per_token(draft) if draft else 0)
    alone = uses_gpu or isinstance(file, GGMLFile)  # of legacy files the weights are copied for each slot
    wanted_slots = slots or (1 if alone else DEFAULT_SLOTS)
    whole = wanted_slots * (context_length or trained) * token_bytes
    # In a shared cache, what other requests left changes the last bits of an answer.
    shares_cache = shares_cache and wanted_slots > 1 and whole > min(spare, _OWN_CACHES)
    fit = int(spare / max(1.0, token_bytes)) // (1 if shares_cache else wanted_slots)
    if is_embedding_model(file):  # its batch is as long as its context, and takes the square of that
        fit = _SMALL_CONTEXT
    length = context_length or min(trained, _LONGEST, max(_SMALL_CONTEXT, fit // _ROUND * _ROUND))
    plan = MemoryPlan(length, 1, int(token_bytes * length))
    if isinstance(file, GGMLFile):
        plan = _legacy_plan(file, length)
    if plan.slot_bytes > memory:
        raise ModelFileError(
            f"{file.path.name} needs {plan.slot_bytes / 1e9:.1f} GB for a context of {plan.context_length} tokens, but "
            f"only {memory / 1e9:.1f} GB are available: set CONTEXT_LENGTH lower"
        )
    if uses_gpu and not shares_gpu:
        if slots and slots > 1:
            log.warning("PARALLEL=%d has no effect: on a GPU, ctransformers runs one request at a time", slots)
        return plan
    if shares_cache:
        each = plan.context_length if context_length else min(plan.context_length, _SMALL_CONTEXT)
        shared = max(plan.context_length, min(wanted_slots * each, fit))
        return replace(plan, slots=wanted_slots, shared_tokens=shared)
    if slots is None and not alone:
        wanted_slots = max(1, min(wanted_slots, spare // max(1, plan.slot_bytes)))
    return replace(plan, slots=wanted_slots)


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


def _beyond_training(file: ModelFile, length: int, trained: int, rope: Rope | None, *, goes_beyond: bool) -> int:
    """Return the context length for a setting that is longer than what the model was trained on."""
    if "position_embd.weight" in file.tensors:  # llama.cpp would read past the end of it
        raise ModelFileError(
            f"CONTEXT_LENGTH={length} is more than the {trained} positions of this model: set it lower"
        )
    limit = f"that ROPE_SCALE={rope.factor:g} allows" if rope and rope.factor > 1 else "that the model was trained on"
    warning = f"CONTEXT_LENGTH=%d is more than the %d tokens {limit}"
    if goes_beyond:
        log.warning(warning, length, trained)
        return length
    advice = "" if rope else "; ROPE_SCALING=yarn allows more"
    log.warning(f"{warning}, and llama.cpp takes no more: the context has {trained} tokens{advice}", length, trained)
    return trained


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
    return MemoryPlan(limits.context_length, 1, nbytes, evals=limits)
