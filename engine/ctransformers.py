"""The ctransformers engine: a pool of contexts, each evaluated by one worker thread at a time.

Never calls LLM.generate, LLM.tokenize or LLM.sample: they overrun buffers, guess tokens and reseed at every
token. The file must have been checked before: the C++ loader trusts it.
"""

import asyncio
import ctypes
import importlib
import importlib.util
import logging
import platform
import sys
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
)
from engine.generation import Generation
from engine.pool import Pool, common_prefix
from engine.threads import ThreadBudget

log = logging.getLogger("ggserve.model")

PREFILL_CHUNK = 64  # tokens; between chunks a request can be cancelled and threads shared anew


def _import_llm() -> ModuleType:
    """ctransformers.llm without the package's __init__, which imports a hub client: 0.4 s that nobody needs."""
    if "ctransformers" in sys.modules:
        return importlib.import_module("ctransformers.llm")
    spec = importlib.util.find_spec("ctransformers")
    if spec is None or spec.submodule_search_locations is None:
        raise EngineError("ctransformers is not installed: pip install -r requirements.txt")
    package = ModuleType("ctransformers")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["ctransformers"] = package
    try:
        return importlib.import_module("ctransformers.llm")
    finally:
        del sys.modules["ctransformers"]


def _library() -> str | None:
    """The build of the C library for this processor; None leaves the choice to ctransformers (1.3 s slower)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    return "avx2" if platform.machine() == "x86_64" and " avx2 " in flags and " fma " in flags else None


class Context:
    """One ctransformers context and the tokens in its KV cache."""

    chunk = PREFILL_CHUNK  # tokens that one eval may take

    def __init__(self, path: Path, model_type: str, context_length: int, gpu_layers: int) -> None:
        self._path = path
        self._model_type = model_type
        self._context_length = context_length
        self._gpu_layers = gpu_layers
        self._llm: Any = None
        self.tokens: list[int] = []

    @property
    def opened(self) -> bool:
        return self._llm is not None

    def open(self) -> None:
        """Maps the weights and allocates the KV cache. Raises EngineError."""
        module = _import_llm()
        config = module.Config(context_length=self._context_length, gpu_layers=self._gpu_layers)
        library = None if self._gpu_layers > 0 else _library()
        try:
            self._llm = self._load(module, config, library)
        except (OSError, RuntimeError) as error:
            if self._gpu_layers > 0:
                raise EngineError(
                    f"GPU_LAYERS={self._gpu_layers} needs ctransformers' CUDA library, which cannot be loaded "
                    f"({error}): pip install 'ctransformers[cuda]', or set GPU_LAYERS=0"
                ) from error
            raise EngineError(f"ctransformers cannot load {self._path.name}: {error}") from error
        library_functions = self._llm._lib
        self._handle = self._llm._llm
        self._eval = library_functions.ctransformers_llm_batch_eval
        self._logits_data = library_functions.ctransformers_llm_logits_data
        self.vocab_size: int = self._llm.vocab_size

    def reuse(self, prompt: Sequence[int]) -> int:
        """Drops from the KV cache what `prompt` does not begin with; returns the number of tokens left.

        The prompt's last token is always left out: it is evaluated anew, for its logits.
        """
        del self.tokens[min(common_prefix(self.tokens, prompt), len(prompt) - 1) :]
        return len(self.tokens)

    def eval(self, tokens: Sequence[int], threads: int) -> None:
        """Appends `tokens` to the KV cache and computes the logits after the last one. The caller checks ids."""
        count = len(tokens)
        if len(self.tokens) + count > self._context_length:
            raise GenerationError("The context is full.")  # past its end the library computes nonsense
        ids = (ctypes.c_int * count)(*tokens)
        if not self._eval(self._handle, ids, count, len(self.tokens), count, threads):
            self.tokens.clear()
            raise GenerationError("ctransformers could not evaluate the tokens.")
        self.tokens.extend(tokens)

    def logits(self) -> NDArray[np.float32]:
        """float32[n_vocab], a view that the next eval overwrites."""
        return np.ctypeslib.as_array(self._logits_data(self._handle), (self.vocab_size,))

    def embedding(self) -> NDArray[np.float32]:
        """float32[embedding length], what the model makes of all its tokens at the last one, scaled to length 1."""
        size = self._llm.ctransformers_llm_embeddings_size()
        vector = np.ctypeslib.as_array(self._llm.ctransformers_llm_embeddings_data(), (size,))
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    def close(self) -> None:
        self._llm = None
        self.tokens.clear()

    def _load(self, module: ModuleType, config: Any, library: str | None) -> Any:
        return module.LLM(str(self._path), self._model_type, config=config, lib=library)


class CTransformersEngine:
    """Runs one checked model file, each request in one of its contexts; the rest wait in line."""

    name = "ctransformers"

    def __init__(
        self,
        contexts: Sequence[Context],  # the first one opened, the others open when they are needed
        *,
        embeds: bool,  # whether the library keeps embeddings: of the older families it does not
        pieces: Sequence[bytes],  # by token id, the bytes that the token adds to a text
        end_ids: frozenset[int],  # tokens that end an answer
        context_length: int,  # tokens
        threads: int,
        queue_size: int = 64,
    ) -> None:
        """Raises EngineError where tokenizer and library disagree on the vocabulary."""
        self.context_length = context_length
        self.features: frozenset[Feature] = frozenset(("generation", "embeddings") if embeds else ("generation",))
        self._pieces = pieces
        self._end_ids = end_ids
        self._contexts = contexts
        if self._contexts[0].vocab_size != len(pieces):
            raise EngineError(
                f"ctransformers sees {self._contexts[0].vocab_size} tokens in the file, its tokenizer {len(pieces)}"
            )
        self.pool = Pool(self._contexts, queue_size)
        self._threads = ThreadBudget(threads)
        self._workers = ThreadPoolExecutor(len(contexts), thread_name_prefix="eval")
        self._running: set[Generation] = set()

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """See Engine.generate."""
        self._check(prompt, params)
        context = await self.pool.acquire(prompt)
        generation = self._new_generation(prompt, params)
        self._workers.submit(self._run, context, generation)
        try:
            while True:
                delta = await generation.deltas.get()
                if isinstance(delta, EngineError):
                    raise delta
                yield delta
                if delta.finish_reason:
                    return
        finally:
            generation.cancelled = True

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """See Engine.embed."""
        nothing_more = SamplingParams(max_tokens=0)
        for tokens in inputs:
            if not tokens:
                raise InvalidRequest("An input has no tokens.")
            self._check(tokens, nothing_more)
        embeddings = []
        for tokens in inputs:
            context = await self.pool.acquire(tokens)
            generation = self._new_generation(tokens, nothing_more)
            call = self._workers.submit(self._embed, context, generation)
            try:
                vector = await asyncio.shield(asyncio.wrap_future(call))  # it gives the context back, come what may
            finally:
                generation.cancelled = True
            if vector is None:
                raise EngineClosed
            embeddings.append(Embedding(vector, len(tokens)))
        return embeddings

    def close(self) -> None:
        """See Engine.close."""
        self.pool.close()
        for generation in list(self._running):
            generation.cancelled = True
        self._workers.shutdown()
        for context in self._contexts:
            context.close()

    def _check(self, prompt: Sequence[int], params: SamplingParams) -> None:
        if len(prompt) >= self.context_length:
            raise ContextOverflow(len(prompt), self.context_length)
        for token in (*prompt, *params.logit_bias):
            if not 0 <= token < len(self._pieces):
                raise InvalidToken(token, len(self._pieces))

    def _new_generation(self, prompt: Sequence[int], params: SamplingParams) -> Generation:
        generation = Generation(
            prompt,
            params,
            pieces=self._pieces,
            end_ids=self._end_ids,
            context_length=self.context_length,
        )
        self._running.add(generation)
        return generation

    def _embed(self, context: Context, generation: Generation) -> NDArray[np.float32] | None:
        """Evaluates an input, in a worker thread, and gives the context back. None when cancelled."""
        try:
            if not context.opened:
                context.open()
            with self._threads.request():
                self._prefill(context, generation)
            return None if generation.cancelled else context.embedding()
        finally:
            self._running.discard(generation)
            self.pool.release(context)

    def _run(self, context: Context, generation: Generation) -> None:
        """Produces an answer, in a worker thread, and gives the context back before it sends the end."""
        end: Delta | EngineError | None = None
        try:
            if not context.opened:
                context.open()
            with self._threads.request():
                self._produce(context, generation)
            end = generation.last
        except EngineError as error:
            log.error("generation failed: %s", error)
            end = error
        except Exception as error:
            log.exception("generation failed")
            end = GenerationError(f"{type(error).__name__}: {error}")
        finally:
            self._running.discard(generation)
            self.pool.release(context)
            generation.deltas.put(end or EngineClosed())  # no end: cancelled

    def _prefill(self, context: Context, generation: Generation) -> None:
        """Evaluates what the context does not hold of the prompt yet; returns early when cancelled."""
        prompt = generation.prompt
        generation.cached_tokens = context.reuse(prompt)
        while (done := len(context.tokens)) < len(prompt) and not generation.cancelled:
            chunk = prompt[done : done + context.chunk]
            with self._threads.eval(len(chunk)) as threads:
                context.eval(chunk, threads)

    def _produce(self, context: Context, generation: Generation) -> None:
        self._prefill(context, generation)
        if generation.cancelled:
            return
        if not generation.wants_tokens:
            generation.finish("length")
            return
        while not generation.cancelled and (token := generation.step(context.logits())) is not None:
            with self._threads.eval(1) as threads:
                context.eval((token,), threads)
