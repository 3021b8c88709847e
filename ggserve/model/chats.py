"""Chats of a loaded model: who renders them, ggserve or the engine, and who reads the calls in their answers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ggserve.chat.encoding import defused, text_length
from ggserve.chat.tool_calling import held_to_calls, with_calls
from ggserve.chat.tool_calls.history import with_short_ids
from ggserve.engines.contract import NativeChat
from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, SamplingParams
from ggserve.messages import Tools
from ggserve.model.load import LoadedModel


@dataclass(frozen=True)
class Chat:
    """What an answer is made from."""

    messages: list[dict[str, Any]]  # with role and content
    tools: Tools | None = None
    begun: str = ""  # of the answer
    template_arguments: Mapping[str, Any] = field(default_factory=dict)  # variables of its template


class Chats:
    """Chats are rendered and calls read here, because only here text from a user cannot become a special token.
    Thoughts, and calls of formats that are not known here, are for the engine to tell apart."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def answer(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Raises InvalidRequest; its deltas raise TemplateError too."""
        chat = self._as_wanted(chat)
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

    async def count(self, chat: Chat) -> int:
        """Tokens of the chat's prompt. Raises TemplateError."""
        chat = self._as_wanted(chat)
        if native := self._native(chat):
            self._loaded.check_length(_text_length(chat))
            return await asyncio.to_thread(lambda: native.count_chat(*self._all_defused(chat)))
        return len(await self._prompt(chat))

    def _as_wanted(self, chat: Chat) -> Chat:
        """The chat with ids of calls as the template wants them."""
        return replace(chat, messages=with_short_ids(chat.messages)) if self._loaded.short_call_ids else chat

    async def _natively(self, native: NativeChat, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self._loaded.check_length(_text_length(chat))
        messages, tools, arguments = await asyncio.to_thread(self._all_defused, chat)
        async with aclosing(native.chat(messages, params, tools, arguments)) as deltas:
            async for delta in deltas:
                yield delta

    async def _rendered(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        params = replace(params, stop=(*params.stop, *self._loaded.codec.stop))
        prompt = await self._prompt(chat)
        async with aclosing(self._loaded.engine.generate(prompt, params)) as deltas:
            async for delta in deltas:
                yield delta

    async def _prompt(self, chat: Chat) -> list[int]:
        functions = [dict(function) for function in chat.tools.functions] if chat.tools else None
        return await self._loaded.off_loop(
            _text_length(chat),
            lambda messages: self._loaded.codec.encode_chat(messages, functions, chat.begun, chat.template_arguments),
            chat.messages,
        )

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
