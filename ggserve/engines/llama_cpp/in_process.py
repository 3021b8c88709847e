"""llama.cpp's server core in this process, through xllamacpp: its parameters, and the reason if it cannot load a
file."""

import base64
import importlib
import importlib.metadata
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import orjson

from ggserve.engines.contract import EngineOptions
from ggserve.engines.llama_cpp.completion_reader import CompletionReader
from ggserve.engines.llama_cpp.listener import PrivateListener, Unanswered, whole_answer
from ggserve.engines.llama_cpp.native_tokenizer import NativeTokenizer
from ggserve.engines.llama_cpp.stack import widen_stacks
from ggserve.engines.llama_cpp.transport import (
    BATCH,
    FEWEST_GUESSES,
    KNOWN_TOKENS,
    LEAST_SIMILARITY,
    MOST_GUESSES,
    NO_TEMPLATE,
    Abilities,
    Chunk,
    ServerPlan,
)
from ggserve.engines.native_process import captured_stderr, kept_signal_handlers
from ggserve.engines.threads import bound_spinning
from ggserve.errors import EngineError, GenerationError, InvalidRequest
from ggserve.machine import Hardware, may_have_gpu
from ggserve.modelfile.rope import Rope

_ERRORS_ONLY = 1  # verbosity of llama.cpp's output on standard error
_LOG_SECONDS = 0.3  # time for its log thread to write why a load failed
_IMAGE_SIDE = 28  # pixels
_LAST_WORD = b"exiting due to"


@lru_cache(1)
def gpus() -> tuple[str, ...]:
    """Return the GPUs that the installed build can use, one line each."""
    if not may_have_gpu():
        return ()
    try:
        devices = import_xllamacpp().get_device_info()
    except EngineError:
        return ()
    return tuple(
        f"{device['name']}: {device['description']} ({device['memory_total'] >> 20} MiB)"
        for device in devices
        if not device["type"].name.endswith("_CPU")
    )


class InProcess:
    """An `xllamacpp.Server` that has loaded a model. See Transport."""

    grammar_language: Literal["lark"] = "lark"
    abilities = Abilities()

    def __init__(self, plan: ServerPlan) -> None:
        """Load the model. Raises EngineError."""
        self._listener = PrivateListener()
        widen_stacks()
        try:
            self._server = load_server(plan, self._listener)
        except EngineError:
            self._listener.close()
            raise
        self._tokenizer = NativeTokenizer(load_server)
        self._sees = plan.options.mmproj_path is not None
        layers = plan.options.gpu_layers
        self.hardware = Hardware(
            f"xllamacpp {importlib.metadata.version('xllamacpp')}",
            gpus() if layers else (),
            None
            if layers == 0
            else "as many layers on the GPU as fit"
            if layers == "auto"
            else f"{layers} layers on the GPU",
        )

    def complete(
        self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """See Transport. Without a projector, only `receive`'s return value can cancel it."""
        if "%llguidance" not in body.get("grammar", ""):
            self._complete(body, receive, cancelled)
            return
        with self._tokenizer.begin() as begun:

            def receive_begun(chunk: Chunk) -> bool:
                begun()
                return receive(chunk)

            self._complete(body, receive_begun, cancelled)

    def _complete(self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool]) -> None:
        if self._sees:  # with a projector, the Python interface accepts neither images nor token ids
            self._stream(body, receive, cancelled)
        else:
            self._call(self._server.handle_completions, body, receive)

    def settle(self, slot: int) -> None:
        """See Transport."""
        with suppress(Unanswered):  # a long batch: the next call waits for its end, too
            self._listener.lora_adapters()  # answered between two batches

    def compute(self, path: str, body: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        """See Transport. The Python interface knows no way to cancel."""
        try:
            return whole_answer(self._listener.stream(path, orjson.dumps(body), cancelled))
        except (OSError, EOFError) as error:
            raise GenerationError(f"llama.cpp broke off its answer: {error}") from error

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """See Transport."""
        return self._listener.post(path, body)

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Transport. Never called, because a crash ends this process."""

    def when_restarted(self, callback: Callable[[], object]) -> None:
        """See Transport. Never called."""

    def close(self) -> None:
        """See Transport. No call may be running, because the destructor holds the GIL, which callbacks need."""
        if self._server is not None:
            self._tokenizer.forget()
        self._server = None
        self._listener.close()

    @property
    def media_marker(self) -> str:
        """See Transport."""
        return self._listener.media_marker

    def _stream(self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool]) -> None:
        reader = CompletionReader(body)
        try:
            for part in self._listener.stream("/completion", orjson.dumps(body), cancelled):
                if any(receive(chunk) for chunk in reader.feed(part)) or reader.complete:
                    return
        except (OSError, EOFError) as error:
            raise GenerationError(f"llama.cpp aborted its answer: {error}") from error
        except TypeError as error:
            raise InvalidRequest(f"The request cannot be passed on to llama.cpp: {error}") from error
        for chunk in reader.rest():
            receive(chunk)

    @staticmethod
    def _call(handle: Any, body: dict[str, Any], receive: Callable[[Chunk], bool]) -> None:
        try:
            handle(orjson.dumps(body), lambda chunk: receive(orjson.loads(chunk)))
        except (
            RuntimeError,
            ValueError,
            IndexError,
            TypeError,
        ) as error:  # from C++, or from parsing JSON
            raise InvalidRequest(f"llama.cpp refuses the request: {error}") from error


def load_server(plan: ServerPlan, listener: PrivateListener) -> Any:
    """Return an `xllamacpp.Server` that has loaded the file and listens at `listener`. Raises EngineError."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # otherwise a failed assertion attaches a debugger to this process
    xllamacpp = import_xllamacpp()
    options, path = plan.options, plan.path
    if options.gpu_layers and not gpus():
        raise EngineError(
            f"GPU_LAYERS={options.gpu_layers} needs an xllamacpp build for this machine's GPU, but the installed "
            "one finds no GPU: install one (see docs/gpu.md), or set GPU_LAYERS=0"
        )
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"m"}  # it is repeated in every chunk
    params.n_ctx = options.cache_tokens
    params.n_parallel = options.parallel
    if options.shared_tokens is not None:
        params.kv_unified = True
        params.kv_unified_per_slot = options.context_length
    params.cache_idle_slots = False  # idle histories stay where they are until their room is needed
    params.n_batch = params.n_ubatch = options.context_length if plan.whole_inputs else max(BATCH, options.parallel)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = layers = -1 if options.gpu_layers == "auto" else options.gpu_layers
    params.fit_params = layers < 0  # changes only what is not set, so never the context length
    params.embedding = True
    types = xllamacpp.llama_pooling_type
    if plan.pooling != "model":
        params.pooling_type = {
            "mean": types.LLAMA_POOLING_TYPE_MEAN,
            "last": types.LLAMA_POOLING_TYPE_LAST,
            "rank": types.LLAMA_POOLING_TYPE_RANK,
        }[plan.pooling]
    params.chat_template = NO_TEMPLATE
    if options.mmproj_path is not None:
        params.mmproj.path = str(options.mmproj_path)
        params.mmproj_use_gpu = layers != 0
        params.video_ffmpeg_bin_dir = str(
            listener.path.parent
        )  # a folder without the program, so no data from clients reaches it
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), scale) for path, scale in options.adapters]
    params.cache_ram_mib = 0 if plan.states else options.prompt_cache
    params.slot_save_path = f"{plan.states or listener.folder}/"  # without one, slots cannot be emptied either
    if plan.states:
        params.swa_full = True  # otherwise a chat that branches is evaluated again from the start with sliding windows
    params.cache_type_k = params.cache_type_v = getattr(
        xllamacpp.ggml_type, f"GGML_TYPE_{options.kv_cache_type.upper()}"
    )
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options.flash_attention]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    _rotate(xllamacpp, params, options.rope)
    _speculate(xllamacpp, params, options)
    params.slot_prompt_similarity = LEAST_SIMILARITY
    params.prefill_assistant = False
    params.hostnames = [str(listener.path)]
    params.api_keys = [listener.key]
    params.n_threads_http = options.parallel + 2
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
        server.handle_metrics()  # answered by its loop; closing a server before the loop runs hangs
        if options.mmproj_path is not None:
            _show_image(listener)
    return server


def _show_image(listener: PrivateListener) -> None:
    """Process a test image, so that a broken projector ends the process now and not at a user's first image."""
    image = base64.b64encode(_grey_bmp()).decode()
    prompt = {"prompt_string": f"{listener.media_marker} a", "multimodal_data": [image]}
    with suppress(InvalidRequest):
        listener.post("/completion", {"prompt": prompt, "n_predict": 1})


def _grey_bmp() -> bytes:
    pixels = b"\x80" * (3 * _IMAGE_SIDE**2)
    head = struct.pack("<IiiHHIIiiII", 40, _IMAGE_SIDE, _IMAGE_SIDE, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels


def _rotate(xllamacpp: ModuleType, params: Any, rope: Rope | None) -> None:
    """Set the rotation of positions, unless it is as the file says."""
    if rope is None:
        return
    kind = xllamacpp.llama_rope_scaling_type
    params.rope_freq_base = rope.freq_base or 0.0
    if rope.scaling == "none":
        params.rope_scaling_type = kind.LLAMA_ROPE_SCALING_TYPE_NONE
    elif rope.scaling is not None:
        # Only YaRN makes a context longer than the file says. Without its extrapolation, it is linear scaling.
        params.rope_scaling_type = kind.LLAMA_ROPE_SCALING_TYPE_YARN
        params.rope_freq_scale, params.yarn_orig_ctx = rope.freq_scale, rope.trained
        if rope.scaling == "linear":
            params.yarn_ext_factor = 0.0


def _speculate(xllamacpp: ModuleType, params: Any, options: EngineOptions) -> None:
    """Return the types of speculative decoding. Repeated text comes first; a draft model is used only if that finds
    nothing."""
    types = xllamacpp.common_speculative_type
    chosen = []
    if options.speculate == "ngram-mod":
        chosen.append(types.COMMON_SPECULATIVE_TYPE_NGRAM_MOD)
        ngrams = params.speculative.ngram_mod
        ngrams.n_match, ngrams.n_min, ngrams.n_max = KNOWN_TOKENS, FEWEST_GUESSES, MOST_GUESSES
    if options.draft_model is not None:
        chosen.append(types.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)
        draft = params.speculative.draft
        draft.mparams.path = str(options.draft_model)
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = options.threads
        draft.n_gpu_layers = params.n_gpu_layers
    if chosen:
        params.speculative.types = chosen


def _load_error(output: bytes) -> str:
    """Return the reason from llama.cpp's log lines: `0.00.224.278 E llama_model_load: error loading model: REASON`."""
    errors = [line.partition(" E ")[2] for line in output.decode("utf-8", "replace").splitlines()]
    reasons = [error.partition("error loading model: ")[2] for error in errors]
    return next(filter(None, reasons), next(filter(None, errors), ""))


def import_xllamacpp() -> ModuleType:
    """Return the module, imported with the environment that it needs. Raises EngineError."""
    bound_spinning(os.environ)
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise EngineError(f"xllamacpp cannot be imported ({error}): pip install -r requirements.txt") from error
