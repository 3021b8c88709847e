"""GGUFModel: one model file, loaded once. Checks it, picks the engine, renders prompts, generates.

Usable without HTTP; the API talks to nothing else.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import psutil

from engine.base import Delta, EngineError, SamplingParams
from engine.ctransformers import Context, CTransformersEngine
from engine.legacy import LegacyContext, LegacySetup
from engine.threads import usable_cores
from modelfile.check import ctransformers_objection
from modelfile.errors import ModelFileError
from modelfile.eval_memory import EvalLimits, eval_limits, loaded_bytes
from modelfile.ggml import GGMLFile, is_ggml, read_ggml
from modelfile.gguf import GGUFFile, read_gguf
from prompt.chat import encode_chat
from prompt.families import read_chat_template
from prompt.template import ChatTemplate
from prompt.tokenizer import Tokenizer

log = logging.getLogger("ggserve.model")

DEFAULT_CONTEXT_LENGTH = 4096  # tokens, where the model's own is longer
DEFAULT_PARALLEL = 4
_STRETCHABLE = ("llama", "falcon")  # legacy families whose files do not fix the number of positions
LONG_TEXT = 8192  # characters; tokenizing more than that would hold up the event loop


class GGUFModel:
    """A loaded model. `chat` and `complete` are async generators of deltas; closing one stops it."""

    def __init__(
        self,
        path: str | Path,
        *,
        engine: Literal["auto", "ctransformers"] = "auto",
        model_type: str | None = None,  # the family of a legacy file; None: what the file proves
        chat_template: str | None = None,  # a name (prompt/families) or a file; None: the model file's own
        context_length: int | None = None,  # tokens; None: the model's own, at most 4096
        gpu_layers: int = 0,
        threads: int | None = None,  # None: the usable cores
        parallel: int | None = None,  # answers at the same time; None: 4, on a GPU or from a legacy file 1
        queue_size: int = 64,  # requests that may wait for their turn
    ) -> None:
        """Checks and loads the file. Raises ModelFileError or EngineError, with one line that says what to do."""
        started = time.perf_counter()
        self.path = Path(path)
        self.name = self.path.name.removesuffix(".gguf").removesuffix(".bin").removesuffix(".ctransformers")
        self.engine_reason = "the file is one that ctransformers runs exactly as it is"
        file = read_ggml(self.path, model_type) if is_ggml(self.path) else _read_runnable_gguf(self.path)
        self._tokenizer = Tokenizer.from_metadata(file)
        self._template = self._chat_template(file, chat_template)
        context_length = _context_length(file, context_length)
        if isinstance(file, GGMLFile):
            limits = eval_limits(file, context_length)
            context_length = _fitting_context(file, context_length, limits)
            self.parallel = parallel or 1
            contexts: Sequence[Context] = _legacy_contexts(file, limits, gpu_layers, self.parallel)
        else:
            self.parallel = parallel or (1 if gpu_layers else DEFAULT_PARALLEL)
            contexts = [Context(self.path, "gguf", context_length, gpu_layers) for _ in range(self.parallel)]
        self.engine: CTransformersEngine = CTransformersEngine(
            contexts,
            pieces=self._tokenizer.pieces,
            end_ids=self._tokenizer.end_ids,
            context_length=context_length,
            threads=threads or usable_cores(),
            queue_size=queue_size,
        )
        log.info(
            "loaded %s in %.2f s: engine %s (%s), context %d tokens, %d slots, %d threads, %d layers on the GPU",
            self.path,
            time.perf_counter() - started,
            self.engine.name,
            self.engine_reason,
            context_length,
            self.parallel,
            threads or usable_cores(),
            gpu_layers,
        )

    async def complete(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """Continues a text, or token ids as they are. An empty prompt starts a text of the model's own."""
        ids = await _off_loop(len(prompt), self.tokenize, prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            start = self._tokenizer.bos_id if self._tokenizer.bos_id is not None else self._tokenizer.eos_id
            ids = [start or 0]
        async with aclosing(self.engine.generate(ids, params or SamplingParams())) as deltas:
            async for delta in deltas:
                yield delta

    async def chat(
        self, messages: list[dict[str, Any]], params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """The assistant's answer to `messages` (dicts with role and content). Raises TemplateError too."""
        params = params or SamplingParams()
        params = dataclasses.replace(params, stop=(*params.stop, *self._template.stop))
        length = sum(len(str(message.get("content"))) for message in messages)
        prompt = await _off_loop(length, self.tokenize_chat, messages)
        async with aclosing(self.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                yield delta

    def tokenize(self, text: str) -> list[int]:
        """The ids of a prompt: special tokens by their text, the beginning-of-sequence token if the model wants one."""
        return self._tokenizer.encode_prompt(text)

    def tokenize_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """The ids of a chat, up to where the assistant's answer begins. Raises TemplateError."""
        return encode_chat(self._template, self._tokenizer, messages)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""
        return self._tokenizer.decode(ids)

    def close(self) -> None:
        """Ends every answer and frees the model."""
        self.engine.close()

    def _chat_template(self, file: GGUFFile | GGMLFile, chosen: str | None) -> ChatTemplate:
        source = file.get("tokenizer.chat_template")
        stop: Sequence[str] = ()
        if chosen:
            source, stop = read_chat_template(chosen)
        return ChatTemplate(
            source,
            bos_token=self._tokenizer.token_text(self._tokenizer.bos_id),
            eos_token=self._tokenizer.token_text(self._tokenizer.eos_id),
            stop=stop,
        )


async def _off_loop(length: int, function: Any, *args: Any) -> Any:
    """Calls `function` in a thread if its work is long."""
    return await asyncio.to_thread(function, *args) if length > LONG_TEXT else function(*args)


def _read_runnable_gguf(path: Path) -> GGUFFile:
    file = read_gguf(path)
    if objection := ctransformers_objection(file):
        raise ModelFileError(f"{path.name}: ctransformers cannot run this file: {objection}")
    return file


def _legacy_contexts(file: GGMLFile, limits: EvalLimits, gpu_layers: int, parallel: int) -> list[LegacyContext]:
    """Contexts for a legacy file, not opened yet. EngineError when the first would not fit into memory."""
    memory, needed = psutil.virtual_memory().total, loaded_bytes(file, limits)
    if needed > memory:
        raise EngineError(
            f"{file.path.name} needs {needed / 1e9:.1f} GB with its context of {limits.context_length} tokens, "
            f"and this machine has {memory / 1e9:.1f} GB"
        )
    log.info("%s (%s): up to %.2f GB for each answer at the same time", file.family, file.format, needed / 1e9)
    setup = LegacySetup(
        limits.chunk, limits.warm_up, limits.rewinds, grouped=file.header.n_head_kv * 8 == file.header.n_head
    )
    return [LegacyContext(file.path, file.family, limits.context_length, gpu_layers, setup) for _ in range(parallel)]


def _fitting_context(file: GGMLFile, wanted: int, limits: EvalLimits) -> int:
    """Tokens. EngineError where the family cannot go as far as asked, or nowhere."""
    if limits.context_length < 8 or limits.chunk < 1:
        raise EngineError(f"{file.path.name}: {file.family} computes in 256 MiB, too little for layers this wide")
    if limits.context_length < wanted:
        log.warning("%s computes in 256 MiB: the context is cut to %d tokens", file.family, limits.context_length)
    return limits.context_length


def _context_length(file: GGUFFile | GGMLFile, wanted: int | None) -> int:
    """Tokens. Raises EngineError when the KV cache would not fit into memory."""
    architecture = file.architecture
    trained = int(file.get(f"{architecture}.context_length"))
    length = wanted or min(trained, DEFAULT_CONTEXT_LENGTH)
    if length > trained and isinstance(file, GGMLFile) and file.family not in _STRETCHABLE:
        raise EngineError(f"CONTEXT_LENGTH={length} is more than the {trained} positions of this {file.family} model")
    if length > trained:
        log.warning("CONTEXT_LENGTH=%d is more than the %d tokens that the model was trained on", length, trained)
    heads = int(file.get(f"{architecture}.attention.head_count"))
    kv_heads = int(file.get(f"{architecture}.attention.head_count_kv", heads))
    width = int(file.get(f"{architecture}.embedding_length")) // heads * kv_heads
    # Keys and values, in 2 bytes each, for every layer and position.
    cache = 2 * 2 * int(file.get(f"{architecture}.block_count")) * width * length
    memory = psutil.virtual_memory().total
    if cache > memory:
        raise EngineError(
            f"a context of {length} tokens needs {cache / 1e9:.1f} GB for its KV cache, and this machine has "
            f"{memory / 1e9:.1f} GB: set CONTEXT_LENGTH lower"
        )
    return length
