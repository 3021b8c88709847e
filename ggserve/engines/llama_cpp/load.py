"""Loads a file into llama.cpp's server core: its parameters, and the reason where it refuses."""

import importlib
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ggserve.engines.contract import EngineOptions
from ggserve.engines.llama_cpp.listener import PrivateListener
from ggserve.engines.native_process import captured_stderr, kept_signal_handlers
from ggserve.engines.pool import MIN_SIMILARITY
from ggserve.engines.threads import bound_spinning
from ggserve.errors import EngineError

Pooling = Literal["model", "mean", "last", "rank"]

_BATCH = 256  # tokens of prompts evaluated at once; between batches a request can be cancelled and others go on
_KNOWN_TOKENS = 8  # in a row that must have been there before, for a guess of what comes next
_FEWEST_GUESSES, _MOST_GUESSES = 0, 8
_NO_TEMPLATE = "{{ messages[0].content }}"  # chats are rendered here; a file's own template could loop without end
_ERRORS_ONLY = 1  # what llama.cpp writes to the standard error
_LOG_SECONDS = 0.3  # that its log thread gets to write why a load failed
_LAST_WORD = b"exiting due to"


def sees_gpu() -> bool:
    """Whether the installed build can use a GPU that is here."""
    try:
        devices = _import_xllamacpp().get_device_info()
    except EngineError:
        return False
    return not all(device["type"].name.endswith("_CPU") for device in devices)


def load_server(
    path: Path,
    listener: PrivateListener,
    options: EngineOptions,
    *,
    pooling: Pooling,
    whole_inputs: bool,  # models that look both ways need the whole input in one batch
) -> Any:
    """An `xllamacpp.Server` that has loaded the file, and listens where `listener` says. Raises EngineError."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else a failed assertion starts a debugger on this process
    xllamacpp = _import_xllamacpp()
    if options.gpu_layers > 0 and not sees_gpu():
        raise EngineError(
            f"GPU_LAYERS={options.gpu_layers} needs an xllamacpp build for this machine's GPU, and the one that is "
            "installed sees none: install one (its README lists them), or set GPU_LAYERS=0"
        )
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"m"}  # it is repeated in every chunk
    params.n_ctx = options.context_length * options.parallel
    params.n_parallel = options.parallel
    params.n_batch = params.n_ubatch = options.context_length if whole_inputs else max(_BATCH, options.parallel)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = options.gpu_layers
    params.fit_params = False  # what does not fit is an error, not another context length
    params.embedding = True
    types = xllamacpp.llama_pooling_type
    if pooling != "model":
        params.pooling_type = {
            "mean": types.LLAMA_POOLING_TYPE_MEAN,
            "last": types.LLAMA_POOLING_TYPE_LAST,
            "rank": types.LLAMA_POOLING_TYPE_RANK,
        }[pooling]
    params.chat_template = _NO_TEMPLATE
    if options.mmproj_path is not None:
        params.mmproj.path = str(options.mmproj_path)
        params.mmproj_use_gpu = options.gpu_layers > 0
    if options.lora_path is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(options.lora_path), options.lora_scale)]
    params.cache_ram_mib = options.prompt_cache
    params.cache_type_k = params.cache_type_v = getattr(
        xllamacpp.ggml_type, f"GGML_TYPE_{options.kv_cache_type.upper()}"
    )
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options.flash_attention]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    _speculate(xllamacpp, params, options)
    params.slot_prompt_similarity = MIN_SIMILARITY
    params.prefill_assistant = False
    params.hostnames = [str(listener.path)]
    params.api_keys = [listener.key]
    params.n_threads_http = options.parallel + 2  # prompts with images stream through the listener
    params.ui = False
    params.endpoint_metrics = True
    params.verbosity = _ERRORS_ONLY
    with kept_signal_handlers(), captured_stderr(f"llama.cpp ended while loading {path.name}") as output:
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            deadline = time.monotonic() + _LOG_SECONDS
            while _LAST_WORD not in (written := os.pread(output.fileno(), 1 << 16, 0)) and time.monotonic() < deadline:
                time.sleep(0.01)
            reason = _load_error(written)
            raise EngineError(f"llama.cpp cannot load {path.name}: {reason or error}") from error
    server.handle_metrics()  # answered by its loop: to close a server before the loop has begun hangs
    return server


def _speculate(xllamacpp: ModuleType, params: Any, options: EngineOptions) -> None:
    """What guesses ahead; text that was there before comes first, a draft model only where that knows nothing."""
    types = xllamacpp.common_speculative_type
    chosen = []
    if options.speculate == "ngram-mod":
        chosen.append(types.COMMON_SPECULATIVE_TYPE_NGRAM_MOD)
        ngrams = params.speculative.ngram_mod
        ngrams.n_match, ngrams.n_min, ngrams.n_max = _KNOWN_TOKENS, _FEWEST_GUESSES, _MOST_GUESSES
    if options.draft_model is not None:
        chosen.append(types.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)
        draft = params.speculative.draft
        draft.mparams.path = str(options.draft_model)
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = options.threads
        draft.n_gpu_layers = options.gpu_layers
    if chosen:
        params.speculative.types = chosen


def _load_error(output: bytes) -> str:
    """The reason in llama.cpp's log lines, as `0.00.224.278 E llama_model_load: error loading model: REASON`."""
    errors = [line.partition(" E ")[2] for line in output.decode("utf-8", "replace").splitlines()]
    reasons = [error.partition("error loading model: ")[2] for error in errors]
    return next(filter(None, reasons), next(filter(None, errors), ""))


def _import_xllamacpp() -> ModuleType:
    bound_spinning(os.environ)
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise EngineError(f"xllamacpp cannot be imported ({error}): pip install -r requirements.txt") from error
