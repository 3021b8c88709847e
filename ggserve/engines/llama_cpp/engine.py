"""The llama.cpp engine. Its server core, in this process or in a child, batches continuously in its own loop.

Each running request occupies one worker thread, which waits in a call of the transport and gets a callback for each
chunk. There are never more calls in flight than slots, so that the queue of waiting requests is ours. The file must
have been checked before.
"""

import asyncio
import logging
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from itertools import product
from typing import Any, Literal, TypeVar

import numpy as np

from ggserve.engines.batches import Batches
from ggserve.engines.contract import SLACK, EngineOptions
from ggserve.engines.llama_cpp.answer import Answer, native_error
from ggserve.engines.llama_cpp.fields import ruled_out, sampling_fields
from ggserve.engines.llama_cpp.saved_states import SavedStates
from ggserve.engines.llama_cpp.scoring import NativeScorer
from ggserve.engines.llama_cpp.slot_keeper import Slot, SlotKeeper
from ggserve.engines.llama_cpp.stack import WordLimit
from ggserve.engines.llama_cpp.transport import BATCH, Pooling, Transport
from ggserve.engines.llama_cpp.trie_walk import TrieWalk
from ggserve.engines.llama_cpp.turns import Turns
from ggserve.engines.pool import Pool, common_prefix
from ggserve.engines.threads import PROCESS
from ggserve.engines.token_trie import TokenTrie
from ggserve.errors import ContextOverflow, EngineClosed, EngineError, GenerationError, InvalidRequest
from ggserve.generation import Delta, Embedding, Feature, MediaPrompt, Ranking, SamplingParams, Scores, check_tokens
from ggserve.grammar import citations
from ggserve.grammar.gbnf import gbnf
from ggserve.grammar.lark import lark
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.grammar.rules import Rules
from ggserve.machine import Hardware

log = logging.getLogger("ggserve.model")

Result = TypeVar("Result")

_LEAST_ROOM = 256  # tokens that an answer reserves at first, at least, in the cache that all slots share
_MORE_ROOM = 512  # tokens that it reserves in addition when these are used

_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large")


class LlamaCppEngine:
    """Runs one checked GGUF file in `parallel` slots of `context_length` tokens each; other requests wait in the queue.

    Deviates from SamplingParams in what llama.cpp cannot express: without `repeat_last_n`, all three penalties count
    prompt and answer together. A seed reproduces a text only if no other request shares its batches, because other
    requests change the last bits of the logits.
    """

    name = "llama.cpp"

    def __init__(
        self,
        transport: Transport,
        *,
        options: EngineOptions,
        vocab_size: int,
        end_ids: Sequence[
            int
        ],  # tokens that end an answer; in a grammar, llama.cpp allows only one, possibly another one
        pooling: Pooling = "last",  # how token vectors are pooled into an embedding; "model": as the file says
        generates: bool = True,  # False: an embedding model
        controls: Mapping[str, int],  # control tokens, by name
        shown_controls: Sequence[str] = (),  # control tokens that answers show as text
        loses_spaces: bool = False,  # llama.cpp strips a space from every token before it matches grammars
        word_limit: WordLimit | None = None,  # for texts that llama.cpp tokenizes
        states: SavedStates | None = None,  # storage of long prompts
        bytes_per_token: float = 0,  # of the KV cache
        sliding_window: int = 0,  # tokens; 0: none
    ) -> None:
        self.context_length = options.context_length
        self.features: frozenset[Feature] = frozenset(
            ("rerank",)
            if pooling == "rank"
            else ("generation", "embeddings", "scores")
            if generates
            else ("embeddings",)
        )
        if generates and not transport.abilities.embeds:
            self.features -= {"embeddings"}
        if options.mmproj_path is not None:
            self.features |= {"images"}
        self._shares_cache = options.shared_tokens is not None
        self._vocab_size = vocab_size
        self._scales = [scale for _, scale in options.adapters]
        self._controls = controls
        self._control_names = {token: name for name, token in controls.items()}
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
        self._keeper = SlotKeeper(states, transport.post, bytes_per_token)
        self._emptying = threading.Lock()
        transport.when_restarted(self._forget)
        self.pool = Pool(
            self._slots,
            options.queue_size,
            options.cache_tokens if self._shares_cache else None,
            side_by_side=not self._shares_cache,  # of several caches, llama.cpp evaluates only neighbours in one batch
        )
        self.batches = Batches(
            self.pool,
            self._embed,
            most=max(1, options.parallel - generates),
            queue_size=options.embedding_queue_size,
            room=lambda tokens: len(tokens) + SLACK,
            keeps=False,
        )
        self._share = options.cache_tokens // options.parallel  # an equal share of the cache
        self._workers = ThreadPoolExecutor(options.parallel, thread_name_prefix="llama.cpp")
        self._running: set[Answer] = set()
        self._walks: set[TrieWalk] = set()
        self._turns = Turns()
        # llama.cpp starts again if it finds fewer tokens in the cache than the sliding window has.
        self._resumable = (sliding_window + 1 if sliding_window else 0) if options.parallel > 1 else None
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
        async for delta in self._stream(body, params, tokens, _key(prompt if tokens is None else tokens)):
            yield delta

    def _prompt(self, prompt: Sequence[int] | MediaPrompt) -> Any:
        """Return a prompt in llama.cpp's form."""
        if not isinstance(prompt, MediaPrompt):
            return list(prompt)
        self._check_words(prompt.text)
        end = " " if prompt.text.endswith(self.media_marker) else ""  # llama.cpp aborts if no token follows an image
        return {"prompt_string": prompt.text + end, "multimodal_data": list(prompt.images)}

    def _sampling(self, params: SamplingParams) -> dict[str, Any]:
        """Return the sampling fields. Raises InvalidToken or InvalidRequest."""
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
        if given is not None and not self._transport.abilities.lora:
            message = "This llama-server cannot scale LoRA adapters in a request: leave lora out, and set LORA_PATH."
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
        return await self.batches.embed(inputs)

    async def score(self, prompt: Sequence[int] | MediaPrompt, continuations: Sequence[Sequence[int]]) -> Scores:
        """See Engine.score."""
        trie = TokenTrie(continuations)
        if not isinstance(prompt, MediaPrompt):
            if len(prompt) + trie.depth > self.context_length:
                raise ContextOverflow(len(prompt) + trie.depth - 1, self.context_length)
            self._check_tokens(prompt)
        body = {"prompt": await asyncio.to_thread(self._prompt, prompt), **self._lora(None)}
        tokens = _key(prompt)
        slot = await self.pool.acquire(tokens, room=len(tokens) + trie.depth + SLACK)
        body["id_slot"] = slot.id
        whole_paths = not self._speculates and self._transport.grammar_language == "lark"
        if not whole_paths and isinstance(prompt, MediaPrompt):
            raise InvalidRequest("Scores of a vision model need SPECULATE=off, no DRAFT_MODEL, and LLAMA_SERVER=off.")
        walk = TrieWalk(
            self._scorer,
            self._transport.complete,
            body,
            self.context_length,
            whole_paths=whole_paths,
            abilities=self._transport.abilities,
        )
        self._walks.add(walk)
        running = self._submit(self._walk, slot, walk, trie, tokens)
        try:
            await asyncio.shield(asyncio.wrap_future(running))  # it always returns the slot
        finally:
            walk.cancelled = True
        return Scores(trie.logprobs(), walk.prompt_tokens, walk.cached_tokens)

    def _submit(self, work: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Run a call in a worker thread. Engines that compute with our own threads leave it its share of cores."""

        def run() -> Result:
            with PROCESS.request():
                return work(*arguments)

        return self._workers.submit(run)

    def _walk(self, slot: Slot, walk: TrieWalk, trie: TokenTrie, prompt: Sequence[int]) -> None:
        held = common_prefix(slot.tokens, prompt)
        try:
            self._prepare(slot, prompt)
            with self._turns.turn():
                walk.run(trie)
        except EngineError:
            slot.tokens = prompt[:held]
            raise
        finally:
            self._walks.discard(walk)
            self.pool.release(slot)

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """See Reranker.rerank."""
        await asyncio.to_thread(self._check_words, [query, documents])
        scores: tuple[float, ...] = ()
        prompt_tokens = 0
        while rest := documents[len(scores) :]:
            slots = await self.pool.acquire_some(len(rest))  # native code uses as many of its own slots
            call = asyncio.wrap_future(self._submit(self._rerank, slots, query, rest[: len(slots)]))
            ranking = await asyncio.shield(call)  # it always returns the slots
            scores += ranking.scores
            prompt_tokens += ranking.prompt_tokens
        return Ranking(scores, prompt_tokens)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the ids of a text, by llama.cpp's tokenizer. Blocks for about a millisecond. Raises InvalidRequest."""
        self._check_words(text)
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        ids: list[int] = self._transport.post("/tokenize", body)["tokens"]
        if not parse_special:  # some builds read control tokens in every text
            for name, token in self._controls.items():
                if name in text and ids.count(token) > add_special:
                    raise InvalidRequest(f"This llama-server cannot read {name} as plain text: leave it out.")
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, including control tokens. Blocks for about a millisecond."""
        self._check_tokens(ids)
        if (name := self._control_names.get(ids[0]) if len(ids) == 1 else None) is not None:
            return name  # some builds return no text for it
        text: str = self._transport.post("/detokenize", {"tokens": list(ids)})["content"]
        return text

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token. Blocks for about a millisecond per token."""
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
        self.batches.close()
        for answer in list(self._running):
            answer.cancelled = True
        for walk in list(self._walks):
            walk.cancelled = True
        self._workers.shutdown()
        self._grammars.close()
        for slot in self._slots:
            self._keeper.save(slot)
        self._transport.close()

    def _check_words(self, value: Any) -> None:
        if self._word_limit is not None:
            self._word_limit.check(value)

    def _native_grammar(self, rules: Rules) -> str:
        """Return the grammar in llama.cpp's form. Raises ValueError if it cannot be expressed."""
        if not self._writes_gbnf:
            # llama.cpp would turn forced text into control tokens.
            return lark(rules, controls=self._controls, ends=self._end_ids, forced=False)
        try:
            return gbnf(rules)
        except ValueError as error:
            raise ValueError(f"{error} (in GBNF; ENGINE=ctransformers supports it if it runs the file)") from error

    def _check_tokens(self, tokens: Iterable[int], field: str | None = None) -> None:
        check_tokens(tokens, self._vocab_size, field)

    async def _stream(
        self, body: dict[str, Any], params: SamplingParams, prompt: Sequence[int] | None, key: Sequence[int]
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
            self._check_words(body["grammar"])  # llama.cpp tokenizes forced text
            if matcher.complete and not matcher.allowed().any():  # only the empty answer is valid
                body["ignore_eos"] = False
            if params.grammar.kind == "citations":
                if self._writes_gbnf:
                    message = (
                        "This build of llama.cpp, or this model's tokenizer, does not support citations. "
                        "ENGINE=ctransformers does, if it runs the file."
                    )
                    raise InvalidRequest(message, params.grammar.source)
                body["grammar"] = citations.with_ends(body["grammar"], self._end_ids)
        if body["ignore_eos"]:  # some builds mask only one of several tokens that end an answer
            body["logit_bias"] = body.get("logit_bias", []) + ruled_out(self._end_ids)
        if params.logprobs is not None:
            self._check_logprobs(params, bool(body.get("logit_bias")))
        body |= {
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # a chunk for each batch of the prompt, so that it can be cancelled there
            "timings_per_token": True,  # reports the true number of tokens
        }
        length = 0 if prompt is None else len(prompt)
        room = length + self._first_room(params.max_tokens) + SLACK
        slot = await self.pool.acquire(key, room=room, continues=params.continues, priority=params.priority)
        body["id_slot"] = slot.id
        answer = Answer(
            params,
            self.context_length,
            self._scorer,
            slot=slot.id,
            turn=self._turns.turn(params.priority),
            native_prompt=self._prompt,
            prompt=prompt,
            resumable=self._resumable,
            end_ids=self._end_ids,
            matcher=matcher,
            has_room=lambda tokens: self._has_room(slot, tokens),
        )
        self.pool.used_by(slot, answer)
        answer.progress.slot = slot.id
        self._running.add(answer)
        self._submit(self._run, slot, body, answer, key)
        async with aclosing(answer.listen()) as deltas:
            async for delta in deltas:
                yield delta

    def _check_logprobs(self, params: SamplingParams, biased: bool) -> None:
        """Raise InvalidRequest if llama.cpp does not report what is requested."""
        abilities, message = self._transport.abilities, ""
        if params.sampled_probabilities:
            if not abilities.sampled_probabilities:
                message = "This llama-server does not report the probabilities after all samplers."
        elif not abilities.logprobs_before_bias and (biased or params.min_tokens or params.bans):
            message = (
                "This llama-server reports logprobs after logit_bias: leave out logprobs, or logit_bias, "
                "allowed_token_ids, ignore_eos, min_tokens and banned strings."
            )
        if message:
            raise InvalidRequest(message, "logprobs")

    def _first_room(self, max_tokens: int | None) -> int:
        """Return the tokens that an answer reserves at first: all of them up to an equal share of the cache, so that
        others never cut it short, and half a share if it may be longer."""
        if max_tokens is not None and max_tokens <= self._share:
            return max_tokens
        return max(_LEAST_ROOM, self._share // 2)

    def _has_room(self, slot: Slot, tokens: int) -> bool:
        """Return whether prompt and answer may have more than this many tokens."""
        slot.held = tokens
        if tokens >= self.context_length:
            return False
        if self.pool.extend(slot, tokens + SLACK, tokens + _MORE_ROOM + SLACK) >= tokens + SLACK:
            self._make_room()
            return True
        log.warning("an answer ends at %d tokens: other requests use the rest of the cache that slots share", tokens)
        return False

    def _run(self, slot: Slot, body: dict[str, Any], answer: Answer, key: Sequence[int]) -> None:
        """Produces the answers, in a worker thread, and gives the slot back before it sends the end.

        The answers are generated one after the other: each finds the prompt in llama.cpp's cache and ends at its own
        stop string.
        """
        adapted = answer.params.lora is not None  # what is saved belongs to the adapters as loaded
        cached = answer.params.cache_prompt and not adapted
        held = common_prefix(slot.tokens, key) if cached else 0
        try:
            self._prepare(slot, key, cached=cached)
            if adapted:
                slot.tokens = ()
            if answer.prompt is not None and (top := answer.params.prompt_logprobs) is not None:
                answer.prompt_scores = self._scorer.prompt(answer.prompt, top, slot.id, lambda: answer.cancelled)
            for index in range(answer.params.n):
                if answer.cancelled or answer.end is not None:
                    break
                answer.begin(index)
                while (changes := answer.next_call(body)) is not None:
                    self._complete({**body, **changes}, answer)
        except EngineError as error:
            answer.end = error
        finally:
            if answer.prompt is not None and answer.evaluated < len(key):
                slot.tokens = slot.tokens[: max(held, answer.evaluated)]
            if isinstance(answer.end, GenerationError):
                log.error("generation failed: %s", answer.end)
                slot.tokens = ()
            self._running.discard(answer)
            self.pool.release(slot)
            answer.put_end()

    def _complete(self, body: dict[str, Any], answer: Answer) -> None:
        """Make a native call, or one for each piece of a long prompt, so that others get their turns in between."""
        with answer.turn:
            self._transport.complete(body, answer.receive, lambda: answer.cancelled)
            while answer.rests and not answer.cancelled:
                self._transport.settle(body["id_slot"])  # what others asked meanwhile comes before the next piece
                answer.turn.rest(lambda: answer.cancelled)
                answer.rests = False
                self._transport.complete(body, answer.receive, lambda: answer.cancelled)

    def _prepare(self, slot: Slot, prompt: Sequence[int], *, cached: bool = True) -> None:
        """Fill the slot with the saved part of a prompt, if prompts are saved. The pool chooses slots by their
        tokens, as llama.cpp does."""
        self._make_room()
        self._keeper.prepare(slot, prompt if cached else ())
        slot.tokens, slot.held = prompt, len(prompt)

    def _make_room(self) -> None:
        """Empty the least recently used idle slots, if the cache that all slots share is too full for what is reserved:
        llama.cpp would empty any, without telling."""
        with self._emptying:
            for slot in self.pool.crowded_out():
                try:
                    self._keeper.empty(slot)
                finally:
                    self.pool.release(slot, spent=True)

    def _forget(self) -> None:
        for slot in self._slots:
            slot.tokens, slot.held = (), 0

    async def act_on_slot(
        self, number: int, action: Literal["save", "restore", "erase"], filename: str
    ) -> dict[str, Any]:
        """Save, restore or erase a slot like llama-server. Raises InvalidRequest."""
        if not 0 <= number < len(self._slots):
            raise InvalidRequest(f"There is no slot {number}: the model has {len(self._slots)}.", "id_slot")
        return await asyncio.to_thread(self._keeper.act, self._slots[number], action, filename)

    def _embed(
        self, slots: list[Slot], inputs: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> list[Embedding]:
        body = {"input": [list(tokens) for tokens in inputs], "encoding_format": "float"}
        with PROCESS.request(), self._turns.turn(), self._placed(slots, inputs, cancelled):
            answer = self._transport.compute("/v1/embeddings", body, cancelled)
        if not answer:
            raise EngineClosed
        if error := answer.get("error"):
            if "increase the physical batch size" in error["message"]:
                raise InvalidRequest(f"An input is longer than the batches of this llama-server ({BATCH} tokens).")
            raise native_error(error, self.context_length)
        vectors = [np.asarray(item["embedding"], np.float32) for item in answer["data"]]
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise GenerationError("llama.cpp computed an embedding that is not a number.")
        return [Embedding(vector, len(tokens)) for vector, tokens in zip(vectors, inputs, strict=True)]

    @contextmanager
    def _placed(
        self, slots: list[Slot], inputs: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> Iterator[None]:
        """Let these slots begin with more of the inputs than others. llama.cpp computes an embedding in the idle slot
        that shares most of its input, and evaluates all of it; the slot loses its history."""

        def evaluate(slot: Slot, tokens: Sequence[int]) -> None:
            if not slot.tokens:  # llama.cpp would save the last embedding's input in memory
                self._keeper.empty(slot)
            others = (common_prefix(other.tokens, tokens) for other in self._slots if other is not slot)
            begun = tokens[: max(others, default=0) + 1]
            self._prepare(slot, begun, cached=False)
            body = {"prompt": list(begun), "n_predict": 1, "id_slot": slot.id, "stream": True, "return_progress": True}
            fields = {"samplers": ["top_k"], "top_k": 1, **self._lora(None)}
            self._transport.complete({**body, **fields}, lambda chunk: cancelled(), cancelled)

        held = self._shares_cache or any(slot.tokens for slot in self._slots)
        if "generation" not in self.features or not held:  # no chat can be lost
            yield
            return
        try:
            for _ in self._workers.map(evaluate, slots, inputs):  # each slot has a worker
                pass
            yield
        finally:
            for slot, tokens in zip(slots, inputs, strict=False):
                slot.tokens, slot.held = (), len(tokens)
            for slot, tokens in product(self._slots, inputs):
                if common_prefix(slot.tokens, tokens) == len(tokens):
                    slot.tokens = tokens  # it may have lost what follows

    def _rerank(self, slots: list[Slot], query: str, documents: Sequence[str]) -> Ranking:
        try:
            body = {"query": query, "documents": list(documents)}
            answer = self._transport.compute("/v1/rerank", body, lambda: self._closed)
        finally:
            for slot in slots:
                self.pool.release(slot)
        if not answer:
            raise EngineClosed
        if error := answer.get("error"):
            if too_long := _TOO_LONG.search(error["message"]):
                raise ContextOverflow(int(too_long[1]), self.context_length)
            raise native_error(error, self.context_length)
        results = sorted(answer["results"], key=lambda result: int(result["index"]))
        return Ranking(tuple(result["relevance_score"] for result in results), answer["usage"]["prompt_tokens"])


def _key(prompt: Sequence[int] | MediaPrompt) -> Sequence[int]:
    """Return the values by which prompts are compared: token ids, or for a prompt with images the characters of its
    text, as numbers that are not ids."""
    return [-ord(character) for character in prompt.text] if isinstance(prompt, MediaPrompt) else prompt
