"""The llama.cpp engine: its server core, in this process or in a child, batches continuously in a loop of its own.

Each running request holds one worker thread, which waits inside a call of the transport and gets a callback for each
chunk. No more calls are in flight than there are slots, so that the queue of waiting requests is ours. The file must
have been checked before.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np

from ggserve.engines.contract import EngineOptions
from ggserve.engines.llama_cpp.answer import Answer, native_error
from ggserve.engines.llama_cpp.fields import sampling_fields
from ggserve.engines.llama_cpp.saved_states import SavedStates
from ggserve.engines.llama_cpp.scoring import NativeScorer
from ggserve.engines.llama_cpp.slot_keeper import Slot, SlotKeeper
from ggserve.engines.llama_cpp.stack import WordLimit
from ggserve.engines.llama_cpp.transport import Pooling, Transport
from ggserve.engines.llama_cpp.trie_walk import TrieWalk
from ggserve.engines.pool import Pool
from ggserve.engines.threads import PROCESS
from ggserve.engines.token_trie import TokenTrie
from ggserve.errors import ContextOverflow, EngineError, GenerationError, InvalidRequest
from ggserve.generation import Delta, Embedding, Feature, MediaPrompt, Ranking, SamplingParams, Scores, check_tokens
from ggserve.grammar import citations
from ggserve.grammar.gbnf import gbnf
from ggserve.grammar.lark import lark
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.grammar.rules import Rules
from ggserve.machine import Hardware

log = logging.getLogger("ggserve.model")

Result = TypeVar("Result")

_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large")


class LlamaCppEngine:
    """Runs one checked GGUF file in `parallel` slots of `context_length` tokens each; the rest wait in the queue.

    Differs from SamplingParams in what llama.cpp has no way to say: without `repeat_last_n`, all three penalties count
    prompt and answer together. A seed repeats a text as long as no other request shares its batches:
    their company changes the last bits of the logits.
    """

    name = "llama.cpp"

    def __init__(
        self,
        transport: Transport,
        *,
        options: EngineOptions,
        vocab_size: int,
        end_ids: Sequence[int],  # tokens that end an answer: in a grammar, llama.cpp knows one only, and maybe another
        pooling: Pooling = "last",  # how token vectors become the embedding of a text; "model": as the file says
        generates: bool = True,  # False: a model that makes embeddings only
        controls: Mapping[str, int],  # tokens that are no text, by what they are called
        shown_controls: Sequence[str] = (),  # control tokens that answers show as text
        loses_spaces: bool = False,  # its tokenizer puts a space before a text, which grammars take from every token
        word_limit: WordLimit | None = None,  # of texts that llama.cpp tokenizes
        states: SavedStates | None = None,  # where long prompts are kept
        bytes_per_token: float = 0,  # of the KV cache
    ) -> None:
        self.context_length = options.context_length
        self.features: frozenset[Feature] = frozenset(
            ("rerank",)
            if pooling == "rank"
            else ("generation", "embeddings", "scores")
            if generates
            else ("embeddings",)
        )
        if generates and not transport.embeds:
            self.features -= {"embeddings"}
        if options.mmproj_path is not None:
            self.features |= {"images"}
        self._vocab_size = vocab_size
        self._scales = [scale for _, scale in options.adapters]
        self._controls = controls
        self._shown_controls = list(shown_controls)
        self._word_limit = word_limit
        self._end_ids = end_ids
        self._writes_gbnf = loses_spaces or transport.grammar_language != "lark"
        self._grammars = Grammars(byte_vocabulary(), self._native_grammar)
        self._speculates = options.speculate != "off" or options.draft_model is not None
        self._transport = transport
        self.media_marker = transport.media_marker if "images" in self.features else ""
        self._scorer = NativeScorer(
            transport,
            spelling=lambda token: self.token_bytes([token])[0],
            tokenize=lambda text: self.tokenize(text, add_special=False, parse_special=False),
            native_prompt=lambda tokens: self._prompt(tokens),
        )
        self._slots = [Slot(number) for number in range(options.parallel)]
        self._keeper = SlotKeeper(states, transport.post, bytes_per_token) if states else None
        transport.when_restarted(self._forget)
        self.pool = Pool(self._slots, options.queue_size)
        self._workers = ThreadPoolExecutor(options.parallel, thread_name_prefix="llama.cpp")
        self._running: set[Answer] = set()
        self._walks: set[TrieWalk] = set()
        self._closed = False

    async def generate(
        self, prompt: Sequence[int] | MediaPrompt, params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """See Engine.generate."""
        tokens = None
        if isinstance(prompt, MediaPrompt):
            fields = (params.bans, params.bans), ("stop_token_ids", params.stop_token_ids)
            others = ("min_tokens", params.min_tokens), ("truncate_prompt_tokens", params.truncate_prompt)
            for field, given in (*fields, *others):
                if given:
                    raise InvalidRequest(f"{field} is not supported together with images.", field)
        else:
            tokens = params.kept(prompt)
            if len(tokens) >= self.context_length:
                raise ContextOverflow(len(tokens), self.context_length)
            self._check_tokens(tokens)
            room = self.context_length - len(tokens)
            params = replace(params, max_tokens=room if params.max_tokens is None else min(params.max_tokens, room))
        if params.min_tokens and params.grammar is not None:
            message = "min_tokens needs ENGINE=ctransformers with structured output or tools: leave one of them out."
            raise InvalidRequest(message, "min_tokens")
        body = {
            "prompt": await asyncio.to_thread(self._prompt, prompt if tokens is None else tokens),
            **({} if params.max_tokens is None else {"n_predict": params.max_tokens}),
            **self._sampling(params),
        }
        async for delta in self._stream(body, params, tokens):
            yield delta

    def _prompt(self, prompt: Sequence[int] | MediaPrompt) -> Any:
        """A prompt as llama.cpp takes it."""
        if not isinstance(prompt, MediaPrompt):
            return list(prompt)
        self._check_words(prompt.text)
        end = " " if prompt.text.endswith(self.media_marker) else ""  # llama.cpp aborts where no token follows an image
        return {"prompt_string": prompt.text + end, "multimodal_data": list(prompt.images)}

    def _sampling(self, params: SamplingParams) -> dict[str, Any]:
        """The fields that choose tokens. Raises InvalidToken or InvalidRequest."""
        for field, tokens in params.named_tokens:
            self._check_tokens(tokens, field)
        params.check()
        shown = self._shown_controls if params.skip_special else list(self._controls)
        return {
            **sampling_fields(params, self.context_length, self._vocab_size),
            "preserved_tokens": shown,
            **self._lora(params.lora),
        }

    def _lora(self, given: Mapping[int, float] | None) -> dict[str, Any]:
        """The field `lora`, with every adapter: llama.cpp would reuse what it evaluated with others. Raises
        InvalidRequest."""
        if unknown := set(given or ()) - set(range(len(self._scales))):
            message = f"There is no LoRA adapter {min(unknown)}: LORA_PATH has {len(self._scales)}."
            raise InvalidRequest(message, "lora")
        scales = self._scales if given is None else [given.get(number, 0.0) for number in range(len(self._scales))]
        return {"lora": [{"id": number, "scale": scale} for number, scale in enumerate(scales)]} if scales else {}

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        """See Engine.embed."""
        for tokens in inputs:
            if not tokens:
                raise InvalidRequest("An input has no tokens.")
            if len(tokens) > self.context_length:
                raise ContextOverflow(len(tokens), self.context_length)
            self._check_tokens(tokens)
        embeddings: list[Embedding] = []
        while rest := inputs[len(embeddings) :]:
            slots = await self.pool.acquire_some(len(rest))  # native code takes as many of its own
            call = asyncio.wrap_future(self._submit(self._embed, slots, rest[: len(slots)]))
            embeddings += await asyncio.shield(call)  # it gives the slots back, come what may
        return embeddings

    async def score(self, prompt: Sequence[int] | MediaPrompt, continuations: Sequence[Sequence[int]]) -> Scores:
        """See Engine.score."""
        trie = TokenTrie(continuations)
        if not isinstance(prompt, MediaPrompt):
            if len(prompt) + trie.depth > self.context_length:
                raise ContextOverflow(len(prompt) + trie.depth - 1, self.context_length)
            self._check_tokens(prompt)
        body = {"prompt": await asyncio.to_thread(self._prompt, prompt), **self._lora(None)}
        tokens = () if isinstance(prompt, MediaPrompt) else prompt
        slot = await self.pool.acquire(tokens)
        if self._keeper:
            body["id_slot"] = slot.id
        whole_paths = not self._speculates and self._transport.grammar_language == "lark"
        if not whole_paths and isinstance(prompt, MediaPrompt):
            raise InvalidRequest("Scores of a vision model need SPECULATE=off, no DRAFT_MODEL, and LLAMA_SERVER=off.")
        walk = TrieWalk(self._scorer, self._transport.complete, body, self.context_length, whole_paths=whole_paths)
        self._walks.add(walk)
        running = self._submit(self._walk, slot, walk, trie, tokens)
        try:
            await asyncio.shield(asyncio.wrap_future(running))  # it gives the slot back, come what may
        finally:
            walk.cancelled = True
        return Scores(trie.logprobs(), walk.prompt_tokens, walk.cached_tokens)

    def _submit(self, work: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Runs a call in a worker thread; engines that evaluate with threads of our own leave it its share of cores."""

        def run() -> Result:
            with PROCESS.request():
                return work(*arguments)

        return self._workers.submit(run)

    def _walk(self, slot: Slot, walk: TrieWalk, trie: TokenTrie, prompt: Sequence[int]) -> None:
        try:
            self._prepare(slot, prompt)
            walk.run(trie)
        finally:
            self._walks.discard(walk)
            self.pool.release(slot)

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """See Reranker.rerank."""
        await asyncio.to_thread(self._check_words, [query, documents])
        scores: tuple[float, ...] = ()
        prompt_tokens = 0
        while rest := documents[len(scores) :]:
            slots = await self.pool.acquire_some(len(rest))  # native code takes as many of its own
            call = asyncio.wrap_future(self._submit(self._rerank, slots, query, rest[: len(slots)]))
            ranking = await asyncio.shield(call)  # it gives the slots back, come what may
            scores += ranking.scores
            prompt_tokens += ranking.prompt_tokens
        return Ranking(scores, prompt_tokens)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text, by llama.cpp's tokenizer. Blocks for about a millisecond. Raises InvalidRequest."""
        self._check_words(text)
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        ids: list[int] = self._transport.post("/tokenize", body)["tokens"]
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens included. Blocks for about a millisecond."""
        self._check_tokens(ids)
        text: str = self._transport.post("/detokenize", {"tokens": list(ids)})["content"]
        return text

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token. Blocks for about a millisecond a token."""
        return [self.detokenize([token]).encode() for token in ids]

    @property
    def hardware(self) -> Hardware:
        """See Engine.hardware."""
        return self._transport.hardware

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Engine.when_failed."""
        self._transport.when_failed(callback)

    def close(self) -> None:
        """See Engine.close."""
        if self._closed:
            return
        self._closed = True
        self.pool.close()
        for answer in list(self._running):
            answer.cancelled = True
        for walk in list(self._walks):
            walk.cancelled = True
        self._workers.shutdown()
        self._grammars.close()
        for slot in self._slots if self._keeper else ():
            assert self._keeper is not None
            self._keeper.save(slot)
        self._transport.close()

    def _check_words(self, value: Any) -> None:
        if self._word_limit is not None:
            self._word_limit.check(value)

    def _native_grammar(self, rules: Rules) -> str:
        """The grammar as llama.cpp reads it. Raises ValueError where it cannot be written so."""
        if not self._writes_gbnf:
            # llama.cpp would make control tokens of a text that must come next.
            return lark(rules, controls=self._controls, ends=self._end_ids, forced=False)
        try:
            return gbnf(rules)
        except ValueError as error:
            raise ValueError(f"{error} (in GBNF; ENGINE=ctransformers supports it if it runs the file)") from error

    def _check_tokens(self, tokens: Iterable[int], field: str | None = None) -> None:
        check_tokens(tokens, self._vocab_size, field)

    async def _stream(
        self, body: dict[str, Any], params: SamplingParams, prompt: Sequence[int] | None
    ) -> AsyncGenerator[Delta, None]:
        scored = params.logprobs is not None or params.watches_tokens
        if self._speculates and scored and params.max_tokens not in (0, 1):
            raise InvalidRequest(
                "logprobs, stop_token_ids, min_tokens and banned strings need SPECULATE=off and no DRAFT_MODEL: "
                "llama.cpp reports nothing about the tokens of speculative decoding."
            )
        matcher = None
        if params.grammar is not None:
            matcher, body["grammar"] = await self._grammars.matcher(params.grammar)
            self._check_words(body["grammar"])  # llama.cpp tokenizes what a grammar leaves no choice about
            if matcher.complete and not matcher.allowed().any():  # no answer fits but the empty one
                body["ignore_eos"] = False
            if params.grammar.kind == "citations":
                if self._writes_gbnf:
                    message = (
                        "This build of llama.cpp, or this model's tokenizer, does not support citations. "
                        "ENGINE=ctransformers does, if it runs the file."
                    )
                    raise InvalidRequest(message, params.grammar.source)
                body["grammar"] = citations.with_ends(body["grammar"], self._end_ids)
        body |= {
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # a chunk for each batch of the prompt, where the answer can be cancelled
            "timings_per_token": True,  # tells the true number of tokens
        }
        slot = await self.pool.acquire(prompt or (), continues=params.continues)
        if self._keeper:
            body["id_slot"] = slot.id
        answer = Answer(
            params,
            self.context_length,
            self._scorer,
            slot=slot.id,
            native_prompt=self._prompt,
            prompt=prompt,
            matcher=matcher,
        )
        answer.progress.slot = slot.id
        self._running.add(answer)
        self._submit(self._run, slot, body, answer)
        async with aclosing(answer.listen()) as deltas:
            async for delta in deltas:
                yield delta

    def _run(self, slot: Slot, body: dict[str, Any], answer: Answer) -> None:
        """Produces the answers, in a worker thread, and gives the slot back before it sends the end.

        They come one after the other: each finds the prompt in llama.cpp's cache, and ends at a stop string of its own.
        """
        try:
            adapted = answer.params.lora is not None  # what is saved belongs to the adapters as loaded
            self._prepare(slot, answer.prompt or (), cached=answer.params.cache_prompt and not adapted)
            if adapted:
                slot.tokens = ()
            if answer.prompt is not None and (top := answer.params.prompt_logprobs) is not None:
                answer.prompt_scores = self._scorer.prompt(answer.prompt, top, lambda: answer.cancelled)
            for index in range(answer.params.n):
                if answer.cancelled or answer.end is not None:
                    break
                answer.begin(index)
                while (changes := answer.next_call(body)) is not None:
                    self._transport.complete({**body, **changes}, answer.receive, lambda: answer.cancelled)
        except EngineError as error:
            answer.end = error
        finally:
            if isinstance(answer.end, GenerationError):
                log.error("generation failed: %s", answer.end)
            self._running.discard(answer)
            self.pool.release(slot)
            answer.put_end()

    def _prepare(self, slot: Slot, prompt: Sequence[int], *, cached: bool = True) -> None:
        """Fills the slot with what is saved of a prompt, where prompts are saved. The pool chooses by its tokens, as
        llama.cpp does among its own slots."""
        if self._keeper:
            self._keeper.prepare(slot, prompt if cached else ())
        slot.tokens = prompt

    def _forget(self) -> None:
        for slot in self._slots:
            slot.tokens = ()

    async def act_on_slot(
        self, number: int, action: Literal["save", "restore", "erase"], filename: str
    ) -> dict[str, Any]:
        """Saves, restores or erases a slot as llama-server does. Raises InvalidRequest."""
        assert self._keeper is not None
        if not 0 <= number < len(self._slots):
            raise InvalidRequest(f"There is no slot {number}: the model has {len(self._slots)}.", "id_slot")
        return await asyncio.to_thread(self._keeper.act, self._slots[number], action, filename)

    def _embed(self, slots: list[Slot], inputs: Sequence[Sequence[int]]) -> list[Embedding]:
        try:
            answer = self._transport.embed({"input": [list(tokens) for tokens in inputs], "encoding_format": "float"})
        finally:
            for slot in slots:
                self.pool.release(slot)
        if error := answer.get("error"):
            raise native_error(error, self.context_length)
        vectors = [np.asarray(item["embedding"], np.float32) for item in answer["data"]]
        return [Embedding(vector, len(tokens)) for vector, tokens in zip(vectors, inputs, strict=True)]

    def _rerank(self, slots: list[Slot], query: str, documents: Sequence[str]) -> Ranking:
        try:
            answer = self._transport.rerank({"query": query, "documents": list(documents)})
        finally:
            for slot in slots:
                self.pool.release(slot)
        if error := answer.get("error"):
            if too_long := _TOO_LONG.search(error["message"]):
                raise ContextOverflow(int(too_long[1]), self.context_length)
            raise native_error(error, self.context_length)
        results = sorted(answer["results"], key=lambda result: int(result["index"]))
        return Ranking(tuple(result["relevance_score"] for result in results), answer["usage"]["prompt_tokens"])
