"""The chats of a loaded model: template, text, token ids, engine, and the parser of the answer. The same path for all
models."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from ggserve.chat.answer_grammar import answer_grammar
from ggserve.chat.citations import with_citations, with_documents
from ggserve.chat.encoding import defused, text_length
from ggserve.chat.format import ChatFormat, ThoughtState
from ggserve.chat.parser import AnswerParser, CallPiece, Part, Text, Thought
from ggserve.chat.rendering import Chat, ChatRenderer, RenderedChat
from ggserve.errors import ContextOverflow, InvalidRequest
from ggserve.generation import Delta, MediaPrompt, SamplingParams, Scores
from ggserve.grammar.citations import citation_grammar, marks_for
from ggserve.messages import ToolCallDelta, Tools
from ggserve.model.confidence import Confidence
from ggserve.model.load import LoadedModel
from ggserve.model.prompt_memory import Parts, PromptMemory, lora_of
from ggserve.model.thinking import Budget, within_budget

__all__ = ["Chat", "Chats"]


class Chats:
    """Renders chats, and separates reasoning and tool calls in their answers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.confidence = Confidence(loaded)
        self._reading = asyncio.Lock()
        self.memory = PromptMemory(rewinds=loaded.facts.rewinds)

    def answer(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Yield the answer's deltas. Also raises InvalidRequest and TemplateError."""
        return self._citing(chat, params) if chat.documents else self._answer(chat, params)

    async def _answer(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        renderer = await self._renderer(chat)
        form, tools = renderer.form, chat.tools
        if tools and "parallel_calls" in form.refused:
            tools = replace(tools, parallel=False)
        rendered, prompt = await self._fitting(chat, renderer, params)
        thinks = chat.template_arguments.get("enable_thinking") is not False
        state = rendered.state or "closed"
        grammar = await asyncio.to_thread(answer_grammar, form, tools, params.grammar, state, thinks=thinks)
        if tools and params.confidence:
            raise InvalidRequest(f"{params.confidence} cannot be combined with tools.", "tools")
        self._watch(params, prompt, chat, renderer)
        budget: Budget | None = None
        if params.thinking_budget is not None and form.thought and state != "closed":
            after = await asyncio.to_thread(answer_grammar, form, tools, params.grammar, "closed")
            budget = Budget(params.thinking_budget, form, after)

        def generate(wanted: SamplingParams) -> AsyncGenerator[Delta, None]:
            held = replace(wanted, grammar=grammar, stop=(*wanted.stop, *renderer.template.stop))
            deltas = self._loaded.engine.generate(prompt, held)
            if budget:
                markers = budget.markers
                deltas = within_budget(
                    lambda begun, params: self._generated(renderer.continued(rendered, begun, markers), params),
                    held,
                    budget,
                    state,
                )
            return deltas if tools is None and form.is_plain else _parsed(deltas, form, tools, rendered.state)

        ids = prompt if isinstance(prompt, list) else None
        async with aclosing(self.confidence.watched(generate, params, ids)) as deltas:
            async for delta in deltas:
                yield delta

    async def _generated(self, rendered: RenderedChat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._loaded.engine.generate(await self._prompt(rendered), params)) as deltas:
            async for delta in deltas:
                yield delta

    async def _citing(self, chat: Chat, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        texts = [document.text for document in chat.documents]
        marks = marks_for(texts)
        grammar = citation_grammar(texts, marks, "documents")
        if self._loaded.token_grammars:  # llama.cpp ignores a grammar that it cannot compile
            await self._loaded.token_grammars.matcher(grammar)
        messages = with_documents([*map(dict, chat.messages)], chat.documents, marks, shown=chat.shows_documents)
        renderer = await self._renderer(chat)
        _, prompt = await self._fitting(replace(chat, messages=messages).quiet, renderer, params)
        params = replace(params, grammar=grammar, stop=(*params.stop, *renderer.template.stop))
        self._watch(params, prompt, chat, renderer)
        deltas = self._loaded.engine.generate(prompt, params)
        async with aclosing(with_citations(deltas, chat.documents, marks)) as cited:
            async for delta in cited:
                yield delta

    def _watch(
        self, params: SamplingParams, prompt: list[int] | MediaPrompt, chat: Chat, renderer: ChatRenderer
    ) -> None:
        """Let the progress of a prompt tell why its tokens are evaluated again."""
        if isinstance(prompt, list) and params.cache_prompt and params.progress:
            source = renderer.template.source
            self.memory.explaining(
                params.progress, params.kept(prompt), lambda: Parts.of(chat, source, lora_of(params))
            )

    async def score(self, chat: Chat, continuations: Sequence[Sequence[int]]) -> Scores:
        """Return the log-probabilities of possible beginnings of a chat's answer, after any reasoning. Also raises
        TemplateError."""
        rendered = await self._rendered(chat.quiet, await self._renderer(chat))
        return await self._loaded.engine.score(await self._prompt(rendered), continuations)

    async def count(self, chat: Chat) -> int:
        """Return the number of tokens of the chat's prompt, without images. Raises TemplateError."""
        rendered = await self._rendered(chat, await self._renderer(chat))
        return len(await self._ids(rendered))

    async def _renderer(self, chat: Chat) -> ChatRenderer:
        """The renderer of a chat; a template of a request's own is read in a thread, one at a time."""
        if chat.template is None:
            return self._loaded.renderers.of(chat)
        async with self._reading:
            return await asyncio.to_thread(self._loaded.renderers.of, chat)

    async def _fitting(
        self, chat: Chat, renderer: ChatRenderer, params: SamplingParams
    ) -> tuple[RenderedChat, list[int] | MediaPrompt]:
        """The prompt of a chat as text and as tokens. Raises ContextOverflow, which says what takes the room."""
        length = self._loaded.engine.context_length
        try:
            rendered = await self._rendered(chat, renderer)
            prompt = await self._prompt(rendered)
            if isinstance(prompt, list) and (tokens := len(params.kept(prompt))) >= length:
                raise ContextOverflow(tokens, length)
        except ContextOverflow as overflow:
            if not chat.tools:
                raise overflow.divided({"messages": overflow.prompt_tokens}) from None
            tools = await self._tokens_of_tools(chat, overflow)
            raise overflow.divided({"tools": tools, "messages": overflow.prompt_tokens - tools}) from None
        return rendered, prompt

    async def _tokens_of_tools(self, chat: Chat, overflow: ContextOverflow) -> int:
        """The tokens that the tools add to a prompt; by their share of its text where that is very long."""
        if not overflow.at_least:
            with suppress(ContextOverflow):
                return overflow.prompt_tokens - await self.count(replace(chat, tools=None))
        tools, messages = text_length(chat.tools and chat.tools.functions), text_length(chat.messages)
        return overflow.prompt_tokens * tools // max(tools + messages, 1)

    async def _rendered(self, chat: Chat, renderer: ChatRenderer) -> RenderedChat:
        """Render in a thread, because a template can take seconds."""
        _check_length(self._loaded, chat)
        return await asyncio.to_thread(renderer.render, chat, self._loaded.engine.media_marker)

    async def _prompt(self, rendered: RenderedChat) -> list[int] | MediaPrompt:
        if not rendered.images:
            return await self._ids(rendered)
        if not self._loaded.engine.media_marker:
            raise InvalidRequest("The model does not support images.", "messages")
        images = tuple(url.partition(",")[2] for url in rendered.images)
        return MediaPrompt(defused(rendered.text, rendered.stand_ins), images)

    async def _ids(self, rendered: RenderedChat) -> list[int]:
        codec = self._loaded.codec
        return await self._loaded.off_loop(
            len(rendered.text), lambda text: codec.encode_rendered(text, rendered.stand_ins), rendered.text
        )


def render_text(loaded: LoadedModel, chat: Chat) -> str:
    """Return the prompt's text. Blocks. Raises TemplateError, ContextOverflow and InvalidRequest."""
    _check_length(loaded, chat)
    return loaded.renderers.of(chat).render(chat, loaded.engine.media_marker).shown


def _check_length(loaded: LoadedModel, chat: Chat) -> None:
    texts = [chat.messages, chat.tools and chat.tools.functions, chat.begun, chat.begun_thought]
    loaded.check_length(text_length([*texts, dict(chat.template_arguments)]))


async def _parsed(
    deltas: AsyncGenerator[Delta, None], form: ChatFormat, tools: Tools | None, state: ThoughtState | None
) -> AsyncGenerator[Delta, None]:
    """Yield the deltas with reasoning and tool calls separated, as they arrive."""
    answers: dict[int, _Answer] = {}
    functions = [tool["function"] for tool in tools.functions] if tools else []
    schemas: dict[str, Mapping[str, Any]] = {
        function["name"]: function.get("parameters") or {} for function in functions
    }
    required = tools is not None and tools.required
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.index not in answers:
                answers[delta.index] = _Answer(AnswerParser(form, schemas, state), required)
            for piece in answers[delta.index].read(delta):
                yield piece


class _Answer:
    """One answer in progress."""

    def __init__(self, parser: AnswerParser, required: bool) -> None:
        self._parser = parser
        self._required = required
        self._calls = False

    def read(self, delta: Delta) -> list[Delta]:
        """Split a delta so that each part has reasoning before text and text before tool calls."""
        parts = self._parser.push(delta.text)
        reason = delta.finish_reason
        if reason:
            parts += self._parser.finish()
        elif not self._required and parts == [Text(delta.text)]:
            return [delta]
        said = [_Said()]
        for part in parts:
            if isinstance(part, Text) and self._required:
                continue  # the beginning of a truncated tool call
            if said[-1].precedes(part):
                said.append(_Said())
            self._calls |= said[-1].add(part)
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        last = len(said) - 1
        return [
            replace(
                delta,
                text=each.text,
                reasoning=each.thought,
                tool_calls=tuple(each.calls),
                finish_reason=reason if number == last else None,
                stop_sequence=delta.stop_sequence if number == last else None,
                tokens=() if number else delta.tokens,
                prompt=() if number else delta.prompt,
            )
            for number, each in enumerate(said)
        ]


class _Said:
    """The content of one delta."""

    def __init__(self) -> None:
        self.thought = self.text = ""
        self.calls: list[ToolCallDelta] = []

    def precedes(self, part: Part) -> bool:
        """Return True if the part cannot be added to this delta without changing the order."""
        if isinstance(part, CallPiece):
            return False
        return bool(self.calls or (self.text and isinstance(part, Thought)))

    def add(self, part: Part) -> bool:
        """Add a part. Return True if it belongs to a tool call."""
        if isinstance(part, CallPiece):
            call_id = None if part.name is None else f"call_{uuid.uuid4().hex[:24]}"
            self.calls.append(ToolCallDelta(part.index, part.arguments, call_id, part.name))
            return True
        if isinstance(part, Thought):
            self.thought += part.text
        else:
            self.text += part.text
        return False
