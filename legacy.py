"""Legacy GGML files for GGUFModel: from a checked file to contexts that can run it, within memory and buffers."""

import logging

import psutil

from engine.base import EngineError
from engine.legacy import LegacyContext, LegacySetup
from modelfile.eval_memory import eval_limits, loaded_bytes
from modelfile.ggml import GGMLFile

log = logging.getLogger("ggserve.model")

_STRETCHABLE = ("llama", "falcon")  # families whose files do not fix the number of positions


def legacy_contexts(
    file: GGMLFile, context_length: int, *, gpu_layers: int, parallel: int
) -> tuple[list[LegacyContext], int]:
    """Contexts, not opened yet, and their length in tokens, at most `context_length`.

    Raises EngineError where the family cannot go that far, or where one context would not fit into memory.
    """
    trained = file.header.n_ctx
    if context_length > trained and file.family not in _STRETCHABLE:
        raise EngineError(f"CONTEXT_LENGTH={context_length} is more than the {trained} positions of this model")
    limits = eval_limits(file, context_length)
    if limits.context_length < 8 or limits.chunk < 1:
        raise EngineError(f"{file.path.name}: {file.family} computes in 256 MiB, too little for layers this wide")
    if limits.context_length < context_length:
        log.warning("%s computes in 256 MiB: the context is cut to %d tokens", file.family, limits.context_length)
    memory, needed = psutil.virtual_memory().total, loaded_bytes(file, limits)
    if needed > memory:
        raise EngineError(
            f"{file.path.name} needs {needed / 1e9:.1f} GB with its context of {limits.context_length} tokens, "
            f"and this machine has {memory / 1e9:.1f} GB"
        )
    log.info("%s (%s): up to %.2f GB for each answer at the same time", file.family, file.format, needed / 1e9)
    grouped = file.header.n_head_kv * 8 == file.header.n_head
    setup = LegacySetup(limits.chunk, limits.warm_up, limits.rewinds, grouped)
    length = limits.context_length
    return [LegacyContext(file.path, file.family, length, gpu_layers, setup) for _ in range(parallel)], length
