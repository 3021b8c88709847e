"""The engine: a pool of contexts, each evaluated by one worker thread at a time, and threads shared between them."""

import asyncio
import importlib.metadata
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import cache, lru_cache

from ggserve.engines.batches import Batches
from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers.context import Context
from ggserve.engines.ctransformers.generation import Generation
from ggserve.engines.history import Breakers, breakers
from ggserve.engines.logprobs import PromptScores, Scorer, logprobs_of
from ggserve.engines.pool import Pool
from ggserve.engines.threads import PROCESS, ThreadBudget
from ggserve.engines.token_trie import TokenTrie
from ggserve.errors import ContextOverflow, EngineClosed, EngineError, GenerationError, InvalidRequest
from ggserve.generation import Delta, Embedding, Feature, MediaPrompt, SamplingParams, Scores, check_tokens
from ggserve.grammar.matcher import Grammars, Matcher
from ggserve.machine import Hardware

log = logging.getLogger("ggserve.model")


class CTransformersEngine:
    """Runs one checked model file, each request in one of its contexts; the rest wait in the queue."""

    name = "ctransformers"
    media_marker = ""

    def __init__(
        self,
        contexts: Sequence[Context],  # the first one is open; the others are opened when needed
        *,
        embeds: bool,  # True if the library can return embeddings, which it cannot for legacy families
        pieces: Sequence[bytes],  # by token id: the bytes that the token adds to a text
        spelling: Callable[[int], bytes],  # returns a token's spelling in the file
        encode: Callable[[str], list[int]],  # returns the ids of a text in the middle of another
        end_ids: frozenset[int],  # tokens that end an answer
        grammars: Grammars,  # for the same vocabulary
        options: EngineOptions,
    ) -> None:
        """Create the engine. Raises EngineError if the tokenizer and the library disagree on the vocabulary."""
        layers = options.gpu_layers
        version = importlib.metadata.version("ctransformers")
        self.hardware = Hardware(f"ctransformers {version}", layers=f"{layers} layers on the GPU" if layers else None)
        self.context_length = options.context_length
        self.features: frozenset[Feature] = frozenset(("generation", "scores"))
        if embeds:
            self.features |= {"embeddings"}
        self._pieces = pieces
        self._spelled = cache(lambda: [piece or spelling(token) for token, piece in enumerate(pieces)])
        self._breakers = lru_cache(8)(lambda texts: breakers(texts, self._spelled(), encode))
        self._end_ids = end_ids
        self._scorer = Scorer(pieces, spelling)
        self._prompt_scores = PromptScores()
        self._grammars = grammars
        self._contexts = contexts
        if self._contexts[0].vocab_size != len(pieces):
            raise EngineError(
                f"ctransformers reads {self._contexts[0].vocab_size} tokens from the file, not {len(pieces)}"
            )
        self.pool = Pool(self._contexts, options.queue_size)
        self.batches = Batches(self.pool, self._embed, most=1, queue_size=options.embedding_queue_size)
        self._threads = ThreadBudget(options.threads, PROCESS)
        self._workers = ThreadPoolExecutor(len(contexts), thread_name_prefix="eval")
        self._running: set[Generation] = set()

    async def generate(
        self, prompt: Sequence[int] | MediaPrompt, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """See Engine.generate."""
        assert not isinstance(prompt, MediaPrompt)  # there is no media marker
        prompt = params.kept(prompt)
        self._check(prompt, params)
        params.check()
        if params.lora:
            raise InvalidRequest("LoRA adapters need llama.cpp: set LORA_PATH and ENGINE=llama.cpp.", "lora")
        matcher, _ = await self._grammars.matcher(params.grammar) if params.grammar else (None, "")
        marks = await asyncio.to_thread(self._breakers, params.dry_sequence_breakers) if params.uses_dry else None
        context = await self.pool.acquire(
            prompt if params.cache_prompt else (), continues=params.continues, priority=params.priority
        )
        generation = self._new_generation(prompt, params, matcher, marks)
        self.pool.used_by(context, generation)
        generation.progress.slot = self._contexts.index(context)
        self._workers.submit(self._run, context, generation)
        async with aclosing(generation.listen()) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """See Engine.embed."""
        if "embeddings" not in self.features:
            raise InvalidRequest("ctransformers cannot make embeddings with legacy model families.")
        nothing_more = SamplingParams(max_tokens=0)
        for tokens in inputs:
            if not tokens:
                raise InvalidRequest("An input has no tokens.")
            self._check(tokens, nothing_more)
        return await self.batches.embed(inputs)

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Engine.when_failed. Never called, because a crash ends this process."""

    async def score(self, prompt: Sequence[int] | MediaPrompt, continuations: Sequence[Sequence[int]]) -> Scores:
        """See Engine.score."""
        assert not isinstance(prompt, MediaPrompt)
        nothing_more = SamplingParams(max_tokens=0)
        trie = TokenTrie(continuations)
        self._check(prompt, nothing_more)
        if len(prompt) + trie.depth > self.context_length:
            raise ContextOverflow(len(prompt) + trie.depth - 1, self.context_length)
        context = await self.pool.acquire(prompt)
        generation = self._new_generation(prompt, nothing_more)
        call = self._workers.submit(self._score, context, generation, trie)
        try:
            await asyncio.shield(asyncio.wrap_future(call))  # it always returns the context
        finally:
            generation.cancelled = True
        return Scores(trie.logprobs(), len(prompt), generation.cached_tokens)

    def close(self) -> None:
        """See Engine.close."""
        self.pool.close()
        for generation in list(self._running):
            generation.cancelled = True
        self.batches.close()
        self._workers.shutdown()
        self._grammars.close()
        for context in self._contexts:
            context.close()

    def _check(self, prompt: Sequence[int], params: SamplingParams) -> None:
        if len(prompt) >= self.context_length:
            raise ContextOverflow(len(prompt), self.context_length)
        for field, tokens in ((None, prompt), *params.named_tokens):
            check_tokens(tokens, len(self._pieces), field)

    def _new_generation(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        matcher: Matcher | None = None,
        marks: Breakers | None = None,
    ) -> Generation:
        generation = Generation(
            prompt,
            params,
            pieces=self._pieces if params.skip_special else self._spelled(),
            end_ids=self._end_ids,
            scorer=self._scorer,
            context_length=self.context_length,
            matcher=matcher,
            breakers=marks,
        )
        self._running.add(generation)
        return generation

    def _embed(
        self, contexts: list[Context], inputs: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> list[Embedding]:
        """Evaluates the one input of a batch. Raises EngineClosed when cancelled."""
        (context,), (tokens,) = contexts, inputs
        if not context.opened:
            context.open()
        with self._threads.request():
            rest = tokens[context.reuse(tokens) :]
            for start in range(0, len(rest), context.chunk):
                if cancelled():
                    raise EngineClosed
                self._eval_chunk(context, rest[start : start + context.chunk])
        return [Embedding(context.embedding(), len(tokens))]

    def _score(self, context: Context, generation: Generation, trie: TokenTrie) -> None:
        """Walk the trie depth first in a worker thread, and return the context to the pool. Raises EngineClosed if
        cancelled."""
        try:
            if not context.opened:
                context.open()
            with self._threads.request():
                self._prefill(context, generation)
                for path, node in trie.branches():
                    if path:
                        tokens = [*generation.prompt, *path]
                        self._eval(context, generation, tokens[context.reuse(tokens) :])
                    if generation.cancelled:
                        raise EngineClosed
                    logprobs = logprobs_of(context.logits(), node.children)
                    for child, logprob in zip(node.children.values(), logprobs, strict=True):
                        child.logprob = logprob
        finally:
            self._running.discard(generation)
            self.pool.release(context)

    def _run(self, context: Context, generation: Generation) -> None:
        """Produce the answers in a worker thread. Return the context to the pool before sending the end."""
        try:
            if not context.opened:
                context.open()
            if not generation.params.cache_prompt:
                context.tokens.clear()
            with self._threads.request():
                if generation.params.prompt_logprobs is not None:
                    self._score_prompt(context, generation)
                while generation.end is None and not generation.cancelled:
                    self._produce(context, generation)
        except EngineError as error:
            log.error("generation failed: %s", error)
            generation.end = error
        except Exception as error:
            log.exception("generation failed")
            generation.end = GenerationError(f"{type(error).__name__}: {error}")
        finally:
            self._running.discard(generation)
            self.pool.release(context)
            generation.put_end()

    def _prefill(self, context: Context, generation: Generation) -> None:
        """Evaluate the part of the prompt that is not in the KV cache. Return early if cancelled."""
        generation.cached_tokens = cached = context.reuse(generation.prompt)
        context.prompt_tokens = len(generation.prompt)
        generation.progress.begin(self._contexts.index(context), len(generation.prompt), cached)
        self._eval(context, generation, generation.prompt[generation.cached_tokens :])

    def _score_prompt(self, context: Context, generation: Generation) -> None:
        """Evaluate the prompt token by token, because the library keeps only the last logits."""
        prompt, top = generation.prompt, generation.params.prompt_logprobs or 0
        scores = self._prompt_scores.known(prompt, top) or [self._scorer.unscored(prompt[0])]
        if len(scores) < len(prompt):
            self._eval(context, generation, prompt[context.reuse(prompt[: len(scores)]) : len(scores)])
        for token in prompt[len(scores) :]:
            if generation.cancelled:
                return
            scores.append(self._scorer.score(context.logits(), token, top))
            self._eval(context, generation, [token])
        self._prompt_scores.keep(scores, top)
        generation.prompt_scores = tuple(scores)

    def _produce(self, context: Context, generation: Generation) -> None:
        """Produce one of the answers."""
        self._prefill(context, generation)
        if generation.cancelled:
            return
        if not generation.wants_tokens:
            generation.finish("length")
            return
        while not generation.cancelled and (tokens := generation.step(context.logits())):
            if generation.rewound:
                generation.rewound = False
                whole = [*generation.prompt, *generation.answer]
                tokens = whole[context.reuse(whole) :]
            self._eval(context, generation, tokens)

    def _eval(self, context: Context, generation: Generation, tokens: Sequence[int]) -> None:
        """Append tokens to the context in chunks. Return early if cancelled."""
        for start in range(0, len(tokens), context.chunk):
            if generation.cancelled:
                return
            self._eval_chunk(context, tokens[start : start + context.chunk])
            generation.progress.advance(len(context.tokens))

    def _eval_chunk(self, context: Context, chunk: Sequence[int]) -> None:
        with self._threads.eval() as threads:
            context.eval(chunk, threads)
