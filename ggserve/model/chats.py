"""Chats of a loaded model: who renders them, ggserve or the engine, and who reads the calls in their answers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ggserve.chat.citations import with_citations, with_documents
from ggserve.chat.encoding import defused, text_length
from ggserve.chat.tool_calling import held_to_calls, with_calls
from ggserve.chat.tool_calls.history import with_short_ids
from ggserve.engines.contract import NativeChat
from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, SamplingParams, Scores
from ggserve.grammar.citations import citation_grammar, marks_for
from ggserve.messages import Document, Tools
from ggserve.model.confidence import Confidence
from ggserve.model.load import LoadedModel

_END = 8  # tokens of a prompt, in which a template that lets the model think opens the thought
_THOUGHT, _THOUGHT_END = "<think>", "\n</think>\n\n"


@dataclass(frozen=True)
class Chat:
    """What an answer is made from."""

    messages: list[dict[str, Any]]  # with role and content
    tools: Tools | None = None
    begun: str = ""  # of the answer
    documents: tuple[Document, ...] = ()  # that it quotes, with citations
    shows_documents: bool = False  # whether the messages have them already
    template_arguments: Mapping[str, Any] = field(default_factory=dict)  # variables of its template


class Chats:
    """Chats are rendered and calls read here, because only here text from a user cannot become a special token.
    Thoughts, and calls of formats that are not known here, are for the engine to tell apart."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.confidence = Confidence(loaded)

    def answer(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Raises InvalidRequest; its deltas raise TemplateError too."""
        chat = self._as_wanted(chat)
        if chat.documents:
            return self._citing(chat, params)
        if native := self._native(chat, held=params.grammar is not None):
            if chat.tools and params.grammar:
                message = (
                    "llama.cpp looks at images, and holds no answer to a format beside calls: leave one of them out"
                )
                raise InvalidRequest(message, params.grammar.source)
            return self._natively(native, chat, params)
        if chat.tools:
            form = self._loaded.call_format
            params = held_to_calls(params, chat.tools, form)
            return with_calls(self._rendered(chat, params), chat.tools, form)
        return self._rendered(chat, params)

    async def _citing(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        texts = [document.text for document in chat.documents]
        marks = marks_for(texts)
        grammar = citation_grammar(texts, marks, "documents")
        if self._loaded.token_grammars:  # llama.cpp goes on without a grammar that it cannot compile
            await self._loaded.token_grammars.matcher(grammar)
        messages = with_documents(chat.messages, chat.documents, marks, shown=chat.shows_documents)
        params = replace(params, grammar=grammar)
        deltas = self._rendered(replace(chat, messages=messages), params, thinks=False)
        async with aclosing(with_citations(deltas, chat.documents, marks)) as cited:
            async for delta in cited:
                yield delta

    async def count(self, chat: Chat) -> int:
        """Tokens of the chat's prompt. Raises TemplateError."""
        chat = self._as_wanted(chat)
        if native := self._native(chat):
            self._loaded.check_length(_text_length(chat))
            return await asyncio.to_thread(lambda: native.count_chat(*self._all_defused(chat)))
        return len(await self._prompt(chat))

    async def score(self, chat: Chat, continuations: Sequence[Sequence[int]]) -> Scores:
        """The log-probabilities of how the answer to a chat may begin, once the model has thought or need not.
        Raises TemplateError too."""
        chat = self._as_wanted(chat)
        if any(isinstance(message.get("content"), list) for message in chat.messages) and self._loaded.native_chat:
            messages, _, arguments = self._all_defused(chat)
            return await self._loaded.native_chat.score_chat(messages, continuations, arguments)
        return await self._loaded.engine.score(await self._prompt(chat, thinks=False), continuations)

    def _as_wanted(self, chat: Chat) -> Chat:
        """The chat with ids of calls as the template wants them."""
        return replace(chat, messages=with_short_ids(chat.messages)) if self._loaded.short_call_ids else chat

    async def _natively(self, native: NativeChat, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self._loaded.check_length(_text_length(chat))
        messages, tools, arguments = await asyncio.to_thread(self._all_defused, chat)
        watched = self.confidence.watched(lambda p: native.chat(messages, p, tools, arguments), params, None)
        async with aclosing(watched) as deltas:
            async for delta in deltas:
                yield delta

    async def _rendered(
        self, chat: Chat, params: SamplingParams, *, thinks: bool = True
    ) -> AsyncGenerator[Delta, None]:
        params = replace(params, stop=(*params.stop, *self._loaded.codec.stop))
        prompt = await self._prompt(chat, thinks=thinks)
        watched = self.confidence.watched(lambda p: self._loaded.engine.generate(prompt, p), params, prompt)
        async with aclosing(watched) as deltas:
            async for delta in deltas:
                yield delta

    async def _prompt(self, chat: Chat, *, thinks: bool = True) -> list[int]:
        """Ids up to where the answer begins; where the model shall not think, after a thought that is empty."""
        codec = self._loaded.codec
        functions = [dict(function) for function in chat.tools.functions] if chat.tools else None
        prompt = await self._loaded.off_loop(
            _text_length(chat),
            lambda messages: codec.encode_chat(messages, functions, chat.begun, chat.template_arguments),
            self._all_defused(chat)[0] if codec.blocks else chat.messages,
        )
        if not thinks and b"".join(codec.pieces(prompt[-_END:])).rstrip().endswith(_THOUGHT.encode()):
            prompt += codec.encode(_THOUGHT_END, add_special=False, parse_special=True)
        return prompt

    def _native(self, chat: Chat, *, held: bool = False) -> NativeChat | None:
        """What renders and parses this chat natively, if anything does: it knows no calls that must be made or beside
        which an answer is `held` to a grammar, and no answers that have begun, and alone can look at images."""
        loaded, tools = self._loaded, chat.tools
        if any(isinstance(message.get("content"), list) for message in chat.messages):
            return loaded.native_chat
        native = loaded.chats_natively or (tools and loaded.calls_natively)
        return loaded.native_chat if native and not (chat.begun or (tools and (tools.required or held))) else None

    def _all_defused(self, chat: Chat) -> tuple[list[dict[str, Any]], Tools | None, dict[str, Any]]:
        """Its messages, tools and template's arguments, for an engine that would find special tokens in them."""
        controls = self._loaded.control_texts
        tools = chat.tools and replace(chat.tools, functions=tuple(defused(chat.tools.functions, controls)))
        return defused(chat.messages, controls), tools, defused(dict(chat.template_arguments), controls)


def _text_length(chat: Chat) -> int:
    return text_length([chat.messages, chat.tools and chat.tools.functions, chat.begun, chat.template_arguments])
