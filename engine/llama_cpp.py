"""The llama.cpp engine: its server core in this process, with continuous batching in a loop of its own.

Each running request holds one worker thread, which waits inside a native call and gets a callback for each chunk. No
more calls are in flight than there are slots, so that the line of waiting requests is ours. The file must have been
checked before.
"""

import asyncio
import importlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import orjson

from engine.base import (
    ContextOverflow,
    Delta,
    Embedding,
    EngineClosed,
    EngineError,
    Feature,
    GenerationError,
    InvalidRequest,
    InvalidToken,
    SamplingParams,
    Tools,
)
from engine.json_schema import checked_schema
from engine.llama_cpp_answer import Answer, native_error
from engine.llama_cpp_listener import PrivateListener
from engine.native_process import captured_stderr, kept_signal_handlers
from engine.pool import Pool

log = logging.getLogger("ggserve.model")

Pooling = Literal["model", "mean", "last"]

BATCH = 256  # tokens of prompts evaluated at once; between batches a request can be cancelled and others go on
PROMPT_CACHE = 1024  # MiB of main memory for the prompts that slots held before
ERRORS_ONLY = 1  # what llama.cpp writes to the standard error
LOG_SECONDS = 0.3  # that its log thread gets to write why a load failed
LAST_WORD = b"exiting due to"


class Slot:
    """Room for one request. Which tokens a native slot holds is llama.cpp's business."""

    opened = True
    tokens: Sequence[int] = ()


class LlamaCppEngine:
    """Runs one checked GGUF file in `parallel` slots of `context_length` tokens each; the rest wait in line.

    Differs from SamplingParams in what llama.cpp has no way to say: all three penalties count prompt and answer
    together, and are applied after `logit_bias`. A seed repeats a text as long as no other request shares its batches:
    their company changes the last bits of the logits.
    """

    name = "llama.cpp"

    def __init__(
        self,
        path: Path,
        *,
        vocab_size: int,
        context_length: int,  # tokens
        threads: int,
        gpu_layers: int = 0,
        parallel: int = 1,
        queue_size: int = 64,
        pooling: Pooling = "last",  # how token vectors become the embedding of a text; "model": as the file says
        generates: bool = True,  # False: a model that makes embeddings only
        chat_template: str | None = None,  # instead of the file's, for `chat` and `render`
    ) -> None:
        """Loads the model. Raises EngineError."""
        self.context_length = context_length
        self.features: frozenset[Feature] = frozenset(
            ("generation", "embeddings", "tools", "json_schema") if generates else ("embeddings",)
        )
        self._vocab_size = vocab_size
        self._parallel = parallel
        self._listener = PrivateListener()
        try:
            self._server = _load(
                path,
                self._listener,
                context_length,
                threads,
                gpu_layers,
                parallel,
                pooling,
                chat_template,
                whole_inputs=not generates,
            )
        except EngineError:
            self._listener.close()
            raise
        self.pool = Pool([Slot() for _ in range(parallel)], queue_size)
        self._workers = ThreadPoolExecutor(parallel, thread_name_prefix="llama.cpp")
        self._running: set[Answer] = set()

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """See Engine.generate."""
        if len(prompt) >= self.context_length:
            raise ContextOverflow(len(prompt), self.context_length)
        self._check_tokens((*prompt, *params.logit_bias))
        room = self.context_length - len(prompt)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        body = {"prompt": list(prompt), "n_predict": max_tokens, **_native_sampling(params, self.context_length)}
        async for delta in self._stream("handle_completions", body, params):
            yield delta

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams, tools: Tools | None = None
    ) -> AsyncGenerator[Delta, None]:
        """The assistant's answer, with llama.cpp's own rendering of the template and its parsers for tool calls and
        reasoning. Where calls are required, the answer may still say something first. Raises as `generate`, and
        InvalidRequest where the template refuses."""
        self._check_tokens(params.logit_bias)
        body = {"messages": messages, **_native_sampling(params, self.context_length), **_native_tools(tools)}
        if params.max_tokens is not None:
            body["n_predict"] = params.max_tokens
        async for delta in self._stream("handle_chat_completions", body, params):
            yield delta

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """See Engine.embed."""
        for tokens in inputs:
            if not tokens:
                raise InvalidRequest("An input has no tokens.")
            if len(tokens) > self.context_length:
                raise ContextOverflow(len(tokens), self.context_length)
            self._check_tokens(tokens)
        embeddings: list[Embedding] = []
        for start in range(0, len(inputs), self._parallel):  # native code takes as many at once as it has slots
            slot = await self.pool.acquire(())
            some = inputs[start : start + self._parallel]
            call = asyncio.wrap_future(self._workers.submit(self._embed, slot, some))
            embeddings += await asyncio.shield(call)  # it gives the slot back, come what may
        return embeddings

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text, by llama.cpp's tokenizer. Blocks for about a millisecond."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        ids: list[int] = self._listener.post("/tokenize", body)["tokens"]
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens included. Blocks for about a millisecond."""
        self._check_tokens(ids)
        text: str = self._listener.post("/detokenize", {"tokens": list(ids)})["content"]
        return text

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Blocks for about a millisecond a token."""
        return [self.detokenize([token]).encode() for token in ids]

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None) -> str:
        """The prompt's text of a chat, by llama.cpp's template engine. Blocks for about a millisecond."""
        body = {"messages": messages, **({"tools": tools} if tools else {})}
        text: str = self._listener.post("/apply-template", body)["prompt"]
        return text

    def close(self) -> None:
        """See Engine.close."""
        self.pool.close()
        for answer in list(self._running):
            answer.cancelled = True
        self._workers.shutdown()
        self._server = None  # its destructor holds the interpreter's lock, so no callback may be left
        self._listener.close()

    def _check_tokens(self, tokens: Sequence[int] | Mapping[int, float]) -> None:
        for token in tokens:
            if not 0 <= token < self._vocab_size:
                raise InvalidToken(token, self._vocab_size)

    async def _stream(self, call: str, body: dict[str, Any], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        if params.json_schema is not None:
            body["json_schema"] = await asyncio.to_thread(checked_schema, params.json_schema)
        body |= {
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # a chunk for each batch of the prompt, where the answer can be cancelled
            "timings_per_token": True,  # tells the true number of tokens
        }
        try:
            request = orjson.dumps(body)
        except TypeError as error:
            raise InvalidRequest(f"The request cannot be passed on to llama.cpp: {error}") from error
        slot = await self.pool.acquire(())
        answer = Answer(params, self.context_length)
        self._running.add(answer)
        self._workers.submit(self._run, call, slot, request, answer)
        try:
            while True:
                delta = await answer.deltas.get()
                if isinstance(delta, EngineError):
                    raise delta
                yield delta
                if delta.finish_reason:
                    return
        finally:
            answer.cancelled = True

    def _run(self, call: str, slot: Slot, body: bytes, answer: Answer) -> None:
        """Produces an answer, in a worker thread, and gives the slot back before it sends the end."""
        try:
            if not answer.cancelled:
                getattr(self._server, call)(body, answer.receive)
        except (RuntimeError, ValueError, IndexError) as error:  # C++ exceptions, from templates and schemas mostly
            answer.end = InvalidRequest(f"llama.cpp refuses the request: {error}")
        finally:
            if isinstance(answer.end, GenerationError):
                log.error("generation failed: %s", answer.end)
            self._running.discard(answer)
            self.pool.release(slot)
            answer.deltas.put(answer.end or EngineClosed())  # no end: cancelled

    def _embed(self, slot: Slot, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        try:
            body = orjson.dumps({"input": [list(tokens) for tokens in inputs], "encoding_format": "float"})
            answer = orjson.loads(self._server.handle_embeddings(body))
        finally:
            self.pool.release(slot)
        if error := answer.get("error"):
            raise native_error(error, self.context_length)
        vectors = [np.asarray(item["embedding"], np.float32) for item in answer["data"]]
        return [Embedding(vector, len(tokens)) for vector, tokens in zip(vectors, inputs, strict=True)]


def _native_sampling(params: SamplingParams, context_length: int) -> dict[str, Any]:
    """SamplingParams as llama.cpp's request fields."""
    fields: dict[str, Any] = {"ignore_eos": params.ignore_eos}
    samplers = []
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        samplers.append("penalties")
        fields |= {
            "repeat_last_n": context_length,  # it makes room for as many
            "repeat_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
        }
    if params.temperature == 0:
        fields |= {"samplers": [*samplers, "top_k"], "top_k": 1}
    else:
        # Temperature does not change which tokens are the top_k, and costs less after it.
        fields |= {
            "samplers": [*samplers, "top_k", "temperature", "top_p", "min_p"],
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
        }
    if params.logit_bias:
        fields["logit_bias"] = [[token, bias] for token, bias in params.logit_bias.items()]
    if params.seed is not None:
        fields["seed"] = params.seed % 0xFFFFFFFF  # the one left out means a random seed
    return fields


def _native_tools(tools: Tools | None) -> dict[str, Any]:
    if tools is None:
        return {}
    return {
        "tools": tools.functions,
        "tool_choice": "required" if tools.required else "auto",
        "parallel_tool_calls": tools.parallel,
    }


def _load(
    path: Path,
    listener: PrivateListener,
    context_length: int,
    threads: int,
    gpu_layers: int,
    parallel: int,
    pooling: Pooling,
    chat_template: str | None,
    *,
    whole_inputs: bool,  # models that look both ways need the whole input in one batch
) -> Any:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else a failed assertion starts a debugger on this process
    try:
        xllamacpp = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise EngineError(f"xllamacpp cannot be imported ({error}): pip install -r requirements.txt") from error
    _check_gpu(xllamacpp, gpu_layers)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"m"}  # it is repeated in every chunk
    params.n_ctx = context_length * parallel
    params.n_parallel = parallel
    params.n_batch = params.n_ubatch = context_length if whole_inputs else max(BATCH, parallel)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = gpu_layers
    params.fit_params = False  # what does not fit is an error, not another context length
    params.embedding = True
    types = xllamacpp.llama_pooling_type
    if pooling != "model":
        params.pooling_type = {"mean": types.LLAMA_POOLING_TYPE_MEAN, "last": types.LLAMA_POOLING_TYPE_LAST}[pooling]
    if chat_template is not None:
        params.chat_template = chat_template
    params.cache_ram_mib = PROMPT_CACHE
    params.slot_prompt_similarity = 0.5  # as our own pool: less in common is not worth a slot's history
    params.prefill_assistant = False
    params.hostnames = [str(listener.path)]
    params.api_keys = [listener.key]
    params.n_threads_http = 2
    params.ui = False
    params.endpoint_metrics = True
    params.verbosity = ERRORS_ONLY
    with kept_signal_handlers(), captured_stderr(f"llama.cpp ended while loading {path.name}") as output:
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            deadline = time.monotonic() + LOG_SECONDS
            while LAST_WORD not in (written := os.pread(output.fileno(), 1 << 16, 0)) and time.monotonic() < deadline:
                time.sleep(0.01)
            reason = _load_error(written)
            raise EngineError(f"llama.cpp cannot load {path.name}: {reason or error}") from error
    server.handle_metrics()  # answered by its loop: to close a server before the loop has begun hangs
    return server


def _load_error(output: bytes) -> str:
    """The reason in llama.cpp's log lines, as `0.00.224.278 E llama_model_load: error loading model: REASON`."""
    errors = [line.partition(" E ")[2] for line in output.decode("utf-8", "replace").splitlines()]
    reasons = [error.partition("error loading model: ")[2] for error in errors]
    return next(filter(None, reasons), next(filter(None, errors), ""))


def _check_gpu(xllamacpp: ModuleType, gpu_layers: int) -> None:
    if gpu_layers > 0 and all(device["type"].name.endswith("_CPU") for device in xllamacpp.get_device_info()):
        raise EngineError(
            f"GPU_LAYERS={gpu_layers} needs an xllamacpp build for this machine's GPU, and the one that is installed "
            "sees none: install one (its README lists them), or set GPU_LAYERS=0"
        )
