"""GGUFModel: one model file, loaded once. Checks it, picks the engine, renders prompts, generates.

Usable without HTTP; the API talks to nothing else.
"""

import asyncio
import dataclasses
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import psutil

from engine.base import Delta, Embedding, EngineError, Feature, InvalidToken, SamplingParams, ToolCallDelta, Tools
from engine.ctransformers import Context, CTransformersEngine
from engine.llama_cpp import LlamaCppEngine
from engine.threads import usable_cores
from legacy import legacy_contexts
from modelfile.embedding import has_pooling, is_embedding_model
from modelfile.engine_choice import EngineName, choose_engine
from modelfile.errors import ModelFileError
from modelfile.ggml import GGMLFile, is_ggml, read_ggml
from modelfile.gguf import GGUFFile, read_gguf
from modelfile.vocabulary import TokenType
from prompt.chat import defused
from prompt.codec import Codec, EngineCodec
from prompt.families import read_chat_template
from prompt.template import ChatTemplate, TemplateError
from prompt.tokenizer import Tokenizer
from prompt.tool_calls import calls_schema, read_calls
from prompt.tool_template import with_tools

log = logging.getLogger("ggserve.model")

Template = tuple[str, Sequence[str]]  # a chat template and the texts that end its answers
Argument = TypeVar("Argument")
Result = TypeVar("Result")

DEFAULT_CONTEXT_LENGTH = 4096  # tokens, where the model's own is longer
DEFAULT_PARALLEL = 4
TEMPLATE = "tokenizer.chat_template"
LONG_TEXT = 8192  # characters; tokenizing more than that would hold up the event loop
REASONS = re.compile(r"think|reasoning|<\|channel\|>", re.IGNORECASE)  # in the template of a model that thinks aloud


class GGUFModel:
    """A loaded model. `chat` and `complete` are async generators of deltas; closing one stops it."""

    def __init__(
        self,
        path: str | Path,
        *,
        engine: Literal["auto", "ctransformers", "llama.cpp"] = "auto",
        model_type: str | None = None,  # the family of a legacy file; None: what the file proves
        chat_template: str | None = None,  # a name (prompt/families) or a file; None: the model file's own
        context_length: int | None = None,  # tokens; None: the model's own, at most 4096
        gpu_layers: int = 0,
        threads: int | None = None,  # None: the usable cores
        parallel: int | None = None,  # answers at the same time; None: 1 to 4, as memory allows
        queue_size: int = 64,  # requests that may wait for their turn
        log_prompts: bool = False,  # whether the log may hold what people write
    ) -> None:
        """Checks and loads the file. Raises ModelFileError or EngineError, with one line that says what to do."""
        started = time.perf_counter()
        self.path = Path(path)
        self.name = self.path.name.removesuffix(".gguf").removesuffix(".bin").removesuffix(".ctransformers")
        self._log_prompts = log_prompts
        file = read_ggml(self.path, model_type) if is_ggml(self.path) else read_gguf(self.path)
        engine_name, self.engine_reason = choose_engine(file, engine)
        chosen = read_chat_template(chat_template) if chat_template else None
        context_length = _context_length(file, context_length)
        threads = threads or usable_cores()
        self.parallel = _parallel(file, engine_name, parallel, context_length, gpu_layers)
        self._vocab_size = len(file.get("tokenizer.ggml.tokens"))
        self._codec: Codec | EngineCodec
        self._chats_natively = False
        self.engine: CTransformersEngine | LlamaCppEngine
        if engine_name == "ctransformers" or isinstance(file, GGMLFile):
            self.engine = self._ctransformers(file, chosen, context_length, threads, gpu_layers, queue_size)
        else:
            self.engine = self._llama_cpp(file, chosen, context_length, threads, gpu_layers, queue_size)
        log.info(
            "loaded %s in %.2f s: engine %s (%s), context %d tokens, %d slots of up to %.0f MB each, %d threads, "
            "%d layers on the GPU",
            self.path,
            time.perf_counter() - started,
            self.engine.name,
            self.engine_reason,
            self.engine.context_length,
            self.parallel,
            _cache_bytes(file) * self.engine.context_length / 1e6,
            threads,
            gpu_layers,
        )

    def _ctransformers(
        self,
        file: GGUFFile | GGMLFile,
        chosen: Template | None,
        context_length: int,
        threads: int,
        gpu_layers: int,
        queue_size: int,
    ) -> CTransformersEngine:
        contexts: Sequence[Context]
        if isinstance(file, GGMLFile):
            contexts, context_length = legacy_contexts(
                file, context_length, gpu_layers=gpu_layers, parallel=self.parallel
            )
        else:
            contexts = [Context(self.path, "gguf", context_length, gpu_layers) for _ in range(self.parallel)]
        with ThreadPoolExecutor(1) as loader:  # C++ loads the file while the tokenizer is built
            opening = loader.submit(contexts[0].open)
            self._codec = _codec(file, chosen)
            opening.result()
        return CTransformersEngine(
            contexts,
            embeds=isinstance(file, GGUFFile),
            pieces=self._codec.token_pieces,
            end_ids=self._codec.end_ids,
            context_length=context_length,
            threads=threads,
            queue_size=queue_size,
        )

    def _llama_cpp(
        self,
        file: GGUFFile,
        chosen: Template | None,
        context_length: int,
        threads: int,
        gpu_layers: int,
        queue_size: int,
    ) -> LlamaCppEngine:
        generates = not is_embedding_model(file)
        template = chosen[0] if chosen else file.get(TEMPLATE)
        engine = LlamaCppEngine(
            self.path,
            vocab_size=self._vocab_size,
            context_length=context_length,
            threads=threads,
            gpu_layers=gpu_layers,
            parallel=self.parallel,
            queue_size=queue_size,
            pooling="last" if generates else "model" if has_pooling(file) else "mean",
            generates=generates,
            chat_template=None if template is None else with_tools(template),
        )
        try:
            self._codec = _codec(file, chosen)
        except (ModelFileError, TemplateError) as error:
            log.info("llama.cpp's own tokenizer and template: %s", error)
            self._codec = EngineCodec(engine, int(file.get("tokenizer.ggml.bos_token_id", 0)))
        self._chats_natively = self._codec.blocks or bool(REASONS.search(template or ""))
        self._control_texts = _control_texts(file)
        return engine

    @property
    def features(self) -> frozenset[Feature]:
        """What the engine can do with this model."""
        return self.engine.features

    async def complete(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """Continues a text, or token ids as they are. An empty prompt starts a text of the model's own."""
        if isinstance(prompt, str):
            ids = await self._off_loop(len(prompt), self._codec.encode_prompt, prompt)
        else:
            ids = list(prompt) or self._codec.encode_prompt("")
        running = self._logged(prompt, self.engine.generate(ids, params or SamplingParams()))
        async with aclosing(running) as deltas:
            async for delta in deltas:
                yield delta

    async def chat(
        self, messages: list[dict[str, Any]], params: SamplingParams | None = None, *, tools: Tools | None = None
    ) -> AsyncGenerator[Delta, None]:
        """The assistant's answer to `messages` (dicts with role and content). Raises TemplateError too.

        Calls and thoughts are parsed by the engine, where it can; other chats are rendered here, because only here
        text from a user cannot become a special token.
        """
        params = params or SamplingParams()
        functions = [dict(function) for function in tools.functions] if tools else None
        if tools and tools.required and functions:
            schema = calls_schema(functions, parallel=tools.parallel)
            running = called(self._chat(messages, dataclasses.replace(params, json_schema=schema), functions))
        elif isinstance(self.engine, LlamaCppEngine) and (tools or self._chats_natively):
            if tools:
                tools = dataclasses.replace(tools, functions=tuple(defused(functions, self._control_texts)))
            running = self.engine.chat(defused(messages, self._control_texts), params, tools)
        else:
            running = self._chat(messages, params)
        async with aclosing(self._logged(messages, running)) as deltas:
            async for delta in deltas:
                yield delta

    def _logged(self, prompt: Any, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        return logged(prompt, deltas) if self._log_prompts else deltas

    async def _chat(
        self, messages: list[dict[str, Any]], params: SamplingParams, functions: list[dict[str, Any]] | None = None
    ) -> AsyncGenerator[Delta, None]:
        params = dataclasses.replace(params, stop=(*params.stop, *self._codec.stop))
        length = sum(len(str(message.get("content"))) for message in messages)
        prompt = await self._off_loop(length, lambda chat: self._codec.encode_chat(chat, functions), messages)
        async with aclosing(self.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> list[Embedding]:
        """The embedding of each text (or of token ids as they are), a vector of length 1."""
        ids = [
            await self._off_loop(len(text), self._codec_encode_input, text) if isinstance(text, str) else list(text)
            for text in inputs
        ]
        return await self.engine.embed(ids)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of a text: with the special tokens that the model wants around it, and with those that it spells."""
        return self._codec.encode(text, add_special=add_special, parse_special=parse_special)

    def tokenize_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """The ids of a chat, up to where the assistant's answer begins. Raises TemplateError."""
        return self._codec.encode_chat(messages)

    def render_chat(self, messages: list[dict[str, Any]]) -> str:
        """The text of a chat, up to where the assistant's answer begins. Raises TemplateError."""
        return self._codec.render(messages)

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids. Raises InvalidToken."""
        self._check_tokens(ids)
        return self._codec.decode(ids, skip_special=skip_special)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, control tokens as the file spells them. Raises InvalidToken."""
        self._check_tokens(ids)
        return self._codec.pieces(ids)

    def _codec_encode_input(self, text: str) -> list[int]:
        return self._codec.encode(text, add_special=True, parse_special=False)

    def _check_tokens(self, ids: Sequence[int]) -> None:
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise InvalidToken(token, self._vocab_size)

    async def _off_loop(self, length: int, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Calls `function` in a thread if its work is long."""
        if self._codec.blocks or length > LONG_TEXT:
            return await asyncio.to_thread(function, argument)
        return function(argument)

    def close(self) -> None:
        """Ends every answer and frees the model."""
        self.engine.close()


async def logged(prompt: Any, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The same deltas; in the end the log has the prompt and the answer, as far as it came."""
    texts = []
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                texts.append(delta.text)
                yield delta
    finally:
        log.info("prompt %r, answer %r", prompt, "".join(texts))


async def called(deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """An answer of `calls_schema`, as calls: all of them in the last delta, for a half call is of no use."""
    texts = []
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.text)
            if delta.finish_reason is None:
                yield dataclasses.replace(delta, text="")
    calls = read_calls("".join(texts))
    yield dataclasses.replace(
        delta,
        text="",
        tool_calls=tuple(
            ToolCallDelta(index, arguments, f"call_{uuid.uuid4().hex[:24]}", name)
            for index, (name, arguments) in enumerate(calls)
        ),
        finish_reason="tool_calls" if delta.finish_reason == "stop" else delta.finish_reason,
    )


def _codec(file: GGUFFile | GGMLFile, chosen: Template | None) -> Codec:
    """`chosen`: a chat template and its stop texts, in place of the file's own."""
    tokenizer = Tokenizer.from_metadata(file)
    bos, eos = tokenizer.token_text(tokenizer.bos_id), tokenizer.token_text(tokenizer.eos_id)
    source, stop = chosen or (file.get(TEMPLATE), ())
    template = ChatTemplate(source, bos, eos, stop)
    return Codec(tokenizer, template, lambda: ChatTemplate(with_tools(template.source), bos, eos, template.stop))


def _control_texts(file: GGUFFile | GGMLFile) -> list[str]:
    tokens: list[bytes] = file.get("tokenizer.ggml.tokens")
    control = np.isin(file.get("tokenizer.ggml.token_type", []), (TokenType.CONTROL, TokenType.UNKNOWN))
    return [tokens[i].decode("utf-8", "replace") for i in control.nonzero()[0] if tokens[i]]


def _context_length(file: GGUFFile | GGMLFile, wanted: int | None) -> int:
    """Tokens. Raises EngineError when the KV cache would not fit into memory."""
    trained = int(file.get(f"{file.architecture}.context_length"))
    length = wanted or min(trained, DEFAULT_CONTEXT_LENGTH)
    if length > trained:
        log.warning("CONTEXT_LENGTH=%d is more than the %d tokens that the model was trained on", length, trained)
    cache, memory = _cache_bytes(file) * length, psutil.virtual_memory().total
    if cache > memory:
        raise EngineError(
            f"a context of {length} tokens needs {cache / 1e9:.1f} GB for its KV cache, and this machine has "
            f"{memory / 1e9:.1f} GB: set CONTEXT_LENGTH lower"
        )
    return length


def _cache_bytes(file: GGUFFile | GGMLFile) -> int:
    """What a token takes in the KV cache at most: keys and values of 2 bytes for every layer."""

    def largest(name: str, default: int) -> int:
        value = file.get(f"{file.architecture}.{name}", default)  # some architectures have one for each layer
        return int(np.max(value)) if np.size(value) else default

    heads = max(1, largest("attention.head_count", 1))
    width = largest("embedding_length", 0) // heads
    keys, values = largest("attention.key_length", width), largest("attention.value_length", width)
    return 2 * (keys + values) * largest("attention.head_count_kv", heads) * largest("block_count", 0)


def _parallel(
    file: GGUFFile | GGMLFile, engine: EngineName, wanted: int | None, context_length: int, gpu_layers: int
) -> int:
    """Answers at the same time: as many as a quarter of the memory has KV caches for, up to a few."""
    if gpu_layers and engine == "ctransformers":  # its CUDA code keeps state that contexts would share
        if wanted and wanted > 1:
            log.warning("PARALLEL=%d: on a GPU ctransformers runs one answer at a time, the others wait", wanted)
        return 1
    if wanted:
        return wanted
    if gpu_layers or isinstance(file, GGMLFile):  # weights of legacy files are copied for each
        return 1
    caches = psutil.virtual_memory().total // 4 // max(1, _cache_bytes(file) * context_length)
    return max(1, min(DEFAULT_PARALLEL, caches))
