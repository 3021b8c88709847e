"""GGUFModel: one loaded model file, with chats, completions, embeddings and tokens.

Works without HTTP. The API uses nothing else.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Unpack

from ggserve.chat.images import with_clean_images
from ggserve.errors import InvalidRequest
from ggserve.generation import (
    Delta,
    Embedding,
    Feature,
    File,
    Occupancy,
    Queue,
    Ranking,
    SamplingParams,
    check_tokens,
)
from ggserve.machine import Hardware
from ggserve.messages import Document, Tools
from ggserve.model.catalog import model_name
from ggserve.model.chats import Chat, Chats, render_text
from ggserve.model.decisions import Decider, Decision, Question
from ggserve.model.load import load
from ggserve.model.plan import LoadArguments, LoadOptions, Report
from ggserve.model.prompt_memory import Parts, lora_of
from ggserve.modelfile.facts import ModelFacts, file_sampling
from ggserve.prompt_progress import PromptProgress

__all__ = ["GGUFModel", "SamplingParams"]

log = logging.getLogger("ggserve.model")

_DECODED_AT_ONCE = 2  # number of requests whose images are decoded in parallel
_ANSWER_OF_GAP = 4  # infill: 1/4 of the context is kept free for an answer without a limit


class GGUFModel:
    """A loaded model. `chat` and `complete` are async generators of deltas; closing one stops the generation."""

    def __init__(
        self,
        path: str | Path,
        *,
        log_prompts: bool = False,
        max_tokens: int | None = None,  # limit per answer, whatever the request asks for
        report: Report | None = None,
        name: str | None = None,  # None: the file's name
        sampling: Mapping[str, Any] | None = None,  # default parameters that override the file's
        fallback_sampling: Mapping[str, Any] | None = None,  # default parameters that the file's override
        memory: int | None = None,  # bytes that limit a default context; None: all that models may take
        **options: Unpack[LoadArguments],
    ) -> None:
        """Check and load the file. See `load.LoadOptions` for `options`. With `log_prompts`, prompts and answers are
        logged. `report` receives the fraction of the file read, 0 to 1.

        Raises ModelFileError, TemplateError or EngineError, with one line that says what to do.
        """
        self.path = Path(path)
        self.name = name or model_name(self.path)
        self._log_prompts = log_prompts
        self._max_tokens = max_tokens
        started = time.perf_counter()
        self._loaded = loaded = load(self.path, LoadOptions(**options), report, memory=memory)
        self.load_seconds = time.perf_counter() - started
        self.engine = loaded.engine
        self._codec = loaded.codec
        self.sampling = {**(fallback_sampling or {}), **file_sampling(loaded.facts), **(sampling or {})}
        self._chats = Chats(loaded)
        self._decider = Decider(loaded, self._chats)
        self._decoding = asyncio.Semaphore(_DECODED_AT_ONCE)

    @property
    def engine_name(self) -> str:
        """The engine that runs the file."""
        return self.engine.name

    @property
    def engine_reason(self) -> str:
        """The reason for the choice of engine, in one line."""
        return self._loaded.engine_reason

    @property
    def hardware(self) -> Hardware:
        """The engine's build and the GPUs in use, which can change."""
        return self.engine.hardware

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """Call `callback`, from any thread, with the reason if the engine fails for good."""
        self.engine.when_failed(callback)

    @property
    def context_length(self) -> int:
        """The context length in tokens, prompt and answer together."""
        return self.engine.context_length

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self._loaded.vocab_size

    @property
    def parallel(self) -> int:
        """The number of slots."""
        return self._loaded.options.parallel

    @property
    def speculates(self) -> bool:
        """True if speculative decoding is on."""
        options = self._loaded.options
        return options.speculate != "off" or options.draft_model is not None

    @property
    def lora_adapters(self) -> list[tuple[Path, float]]:
        """The active LoRA adapters and their scales."""
        return list(self._loaded.options.adapters)

    @property
    def nbytes(self) -> int:
        """The memory that it takes in bytes: weights and KV caches."""
        return self._loaded.nbytes

    @property
    def occupancy(self) -> Occupancy:
        """The current load."""
        return self.engine.pool

    @property
    def embedding_queue(self) -> Queue:
        """The load of embedding requests."""
        return self.engine.batches

    @property
    def facts(self) -> ModelFacts:
        """The facts in the model file."""
        return self._loaded.facts

    @property
    def features(self) -> frozenset[Feature]:
        """The features of the engine with this model."""
        return self.engine.features

    async def complete(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """Continue a text, or token ids. An empty prompt starts a new text."""
        if isinstance(prompt, str):
            ids = await self._loaded.off_loop(len(prompt), self._codec.encode_prompt, prompt)
        else:
            ids = list(prompt) or self._codec.encode_prompt("")
        params = self._capped(params)
        self._remember(params, ids)
        watched = self._chats.confidence.watched(lambda p: self.engine.generate(ids, p), params, ids)
        async with aclosing(self._logged(prompt, watched)) as deltas:
            async for delta in deltas:
                yield delta

    async def decide(self, messages: list[dict[str, Any]], questions: Sequence[Question]) -> list[Decision]:
        """Return the answers to questions about a chat, each with the probability of every option. Generates no
        text."""
        return await self._decider.decide(await self._clean_images(messages), questions)

    @property
    def infill_objection(self) -> str | None:
        """The reason why the model does not support fill-in-the-middle, or None if it does."""
        return self._loaded.infill.objection

    async def infill(
        self,
        prefix: str | Sequence[int],
        suffix: str,
        params: SamplingParams | None = None,
        *,
        files: Sequence[File] = (),
    ) -> AsyncGenerator[Delta, None]:
        """Generate the text between two pieces of text. Of other `files`, the end that fits into the context is used.
        Call it only if there is no `infill_objection`."""
        params = self._capped(params)
        answer = self.context_length // _ANSWER_OF_GAP if params.max_tokens is None else params.max_tokens
        room = self.context_length - answer - 1

        def encoded(gap: tuple[str | Sequence[int], str]) -> list[int]:
            return self._loaded.infill.prompt(*gap, files, room=room)

        length = len(prefix) * isinstance(prefix, str) + len(suffix)
        ids = await self._loaded.off_loop(
            length, encoded, (prefix, suffix), others=sum(len(file.text) for file in files)
        )
        self._remember(params, ids)
        async with aclosing(self._logged([prefix, suffix], self.engine.generate(ids, params))) as deltas:
            async for delta in deltas:
                yield delta

    async def chat(
        self,
        messages: list[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Tools | None = None,
        begun: str = "",
        begun_thought: str = "",
        template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        documents: Sequence[Document] = (),
        shows_documents: bool = False,
    ) -> AsyncGenerator[Delta, None]:
        """Generate the assistant's answer to `messages` (dicts with role and content), or the rest of one that has
        `begun`.

        `template_arguments` are variables for the chat template, such as `enable_thinking`. The answer quotes the
        `documents`; `shows_documents` means that the messages already contain them. Also raises TemplateError.
        """
        visible = await self._clean_images(messages)
        given = tuple(documents), shows_documents, template, template_arguments or {}
        chat = Chat(visible, tools, begun, begun_thought, *given)
        running = self._chats.answer(chat, self._capped(params))
        async with aclosing(self._logged(messages, running)) as deltas:
            async for delta in deltas:
                yield delta

    async def count_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Tools | None = None,
        begun: str = "",
        begun_thought: str = "",
        template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> int:
        """Return the number of tokens in the prompt that `chat` makes from the same arguments. Raises TemplateError."""
        chat = Chat(
            messages, tools, begun, begun_thought, template=template, template_arguments=template_arguments or {}
        )
        return await self._chats.count(chat)

    async def _clean_images(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not any(isinstance(message.get("content"), list) for message in messages):
            return messages
        async with self._decoding:
            return await asyncio.to_thread(with_clean_images, messages)

    def _capped(self, params: SamplingParams | None) -> SamplingParams:
        """Return the parameters within the model's limits, with `text_bias` converted to a bias of tokens."""
        params = (params or SamplingParams()).over(self.sampling)
        params = dataclasses.replace(params, progress=params.progress or PromptProgress())
        if params.text_bias:
            texts = {
                token: bias
                for text, bias in params.text_bias.items()
                for token in self.tokenize(text, add_special=False, parse_special=False)
            }
            params = dataclasses.replace(params, logit_bias={**texts, **params.logit_bias}, text_bias={})
        limits = [limit for limit in (self._max_tokens, params.max_tokens) if limit is not None]
        return dataclasses.replace(params, max_tokens=min(limits)) if limits else params

    def _remember(self, params: SamplingParams, ids: Sequence[int]) -> None:
        if params.cache_prompt and params.progress:
            self._chats.memory.explaining(params.progress, params.kept(ids), lambda: Parts(hash(lora_of(params))))

    def _logged(self, prompt: Any, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        return logged(prompt, deltas) if self._log_prompts else deltas

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[Embedding]:
        """Return the embedding of each text (or list of token ids), a vector of length 1. With `truncate`, a text that
        is too long is cut at its end."""
        ids = [list(text) if not isinstance(text, str) else await self._input_ids(text, truncate) for text in inputs]
        return await self.engine.embed(ids)

    async def _input_ids(self, text: str, truncate: bool) -> list[int]:
        if not truncate:
            return await self._loaded.off_loop(len(text), self._encoded_input, text)
        text = text[: (self.context_length + 1) * self._codec.longest_token]
        return await asyncio.to_thread(self._cut_input, text)

    def _encoded_input(self, text: str) -> list[int]:
        return self._codec.encode(text, add_special=True, parse_special=False)

    def _cut_input(self, text: str) -> list[int]:
        """Return the tokens of as much of a text as fits, between the model's special tokens."""
        ids = self._encoded_input(text)
        room = self.context_length - 1
        if len(ids) <= room:
            return ids
        plain = self._codec.encode(text, add_special=False, parse_special=False)
        ends = [
            start + len(plain) for start in range(len(ids) - len(plain) + 1) if ids[start : start + len(plain)] == plain
        ]
        ending = ids[ends[0] :] if ends else []
        return ids[: room - len(ending)] + ending

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """Return the relevance of each document to the query. Requires Feature "rerank"."""
        if self._loaded.reranker is None:
            raise InvalidRequest(f"{self.name} cannot rank documents")
        return await self._loaded.reranker.rerank(query, documents)

    async def act_on_slot(
        self, number: int, action: Literal["save", "restore", "erase"], filename: str
    ) -> dict[str, Any]:
        """Save, restore or erase a slot, and return llama-server's response. Raises InvalidRequest."""
        if self._loaded.slot_files is None:
            why = "ctransformers cannot save slots" if self.engine_name == "ctransformers" else "set PROMPT_CACHE_DIR"
            raise InvalidRequest(f"Slots of {self.name} cannot be saved: {why}.")
        return await self._loaded.slot_files.act_on_slot(number, action, filename)

    @property
    def thinks(self) -> bool:
        """True if its chats have reasoning in a known format."""
        return self._loaded.renderers.main.form.thought is not None

    @property
    def tokenizer_facts(self) -> dict[str, str | None]:
        """The texts of `bos_token` and `eos_token`, and `chat_template` in Jinja2; None for those that do not exist."""
        return {**self._codec.special_tokens, "chat_template": self._loaded.renderers.main.template.source}

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Return the ids of a text, optionally with the model's special tokens around it and with special tokens parsed
        in it."""
        return self._codec.encode(text, add_special=add_special, parse_special=parse_special)

    def tokenize_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Return the ids of a chat, up to the beginning of the assistant's answer. Raises TemplateError."""
        chat = Chat(messages)
        rendered = self._loaded.renderers.of(chat).render(chat)
        return self._codec.encode_rendered(rendered.text, rendered.stand_ins)

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Tools | None = None,
        begun: str = "",
        begun_thought: str = "",
        template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of the prompt that `chat` makes from the same arguments. Raises TemplateError."""
        return render_text(
            self._loaded,
            Chat(messages, tools, begun, begun_thought, template=template, template_arguments=template_arguments or {}),
        )

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids. Raises InvalidToken."""
        self._check_tokens(ids)
        return self._codec.decode(ids, skip_special=skip_special)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token, control tokens as spelled in the file. Raises InvalidToken."""
        self._check_tokens(ids)
        return self._codec.pieces(ids)

    def _check_tokens(self, ids: Sequence[int]) -> None:
        check_tokens(ids, self._loaded.vocab_size)

    def close(self) -> None:
        """End every answer and free the model."""
        self._chats.confidence.close()
        self.engine.close()


async def logged(prompt: Any, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """Yield the same deltas, and finally log the prompt and the answer so far."""
    texts = []
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                texts.append(delta.text)
                yield delta
    finally:
        log.info("prompt %r, answer %r", prompt, "".join(texts))
