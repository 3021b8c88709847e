"""Calls of functions, for chats that are rendered here: what an answer is held to, and the calls that are in it.

How models write calls is in `prompt.tool_calls`.
"""

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from ggserve.chat.answer_grammar import answer_grammar
from ggserve.chat.format import ChatFormat
from ggserve.chat.tool_calls import CallFormat
from ggserve.chat.tool_calls.reader import CallPiece, CallReader
from ggserve.generation import Delta, SamplingParams
from ggserve.messages import ToolCallDelta, Tools


def held_to_calls(params: SamplingParams, tools: Tools, form: CallFormat) -> SamplingParams:
    """The parameters with a grammar of answers that call the functions: see `answer_grammar`. Raises InvalidRequest."""
    return replace(params, grammar=answer_grammar(ChatFormat(calls=form.calls), tools, params.grammar))


async def with_calls(
    deltas: AsyncGenerator[Delta, None], tools: Tools, form: CallFormat
) -> AsyncGenerator[Delta, None]:
    """The deltas with the calls in their text told apart, as they are made."""
    answers: dict[int, _Calls] = {}
    names = [tool["function"]["name"] for tool in tools.functions]
    async with aclosing(deltas):
        async for delta in deltas:
            answer = answers.setdefault(delta.index, _Calls(CallReader(form, names), tools.required))
            for piece in answer.read(delta):
                yield piece


class _Calls:
    """The calls of one answer."""

    def __init__(self, reader: CallReader, required: bool) -> None:
        self._reader = reader
        self._required = required
        self._any = False

    def read(self, delta: Delta) -> list[Delta]:
        """A delta as one or more: text comes before calls in each."""
        parts = self._reader.push(delta.text)
        if delta.finish_reason:
            parts += self._reader.finish()
        groups: list[tuple[str, list[ToolCallDelta]]] = [("", [])]
        for part in parts:
            text, calls = groups[-1]
            if isinstance(part, CallPiece):
                self._any = True
                calls.append(self._call(part))
            elif self._required:
                continue  # the beginning of a call that was cut
            elif calls:
                groups.append((part, []))
            else:
                groups[-1] = (text + part, calls)
        reason = delta.finish_reason
        if reason == "stop" and self._any:
            reason = "tool_calls"
        pieces = [
            replace(delta, text=text, tool_calls=tuple(calls), finish_reason=None, stop_sequence=None, tokens=())
            for text, calls in groups
        ]
        pieces[0] = replace(pieces[0], tokens=delta.tokens)
        pieces[-1] = replace(pieces[-1], finish_reason=reason, stop_sequence=delta.stop_sequence)
        return pieces

    @staticmethod
    def _call(part: CallPiece) -> ToolCallDelta:
        if part.name is None:
            return ToolCallDelta(part.index, part.arguments)
        return ToolCallDelta(part.index, part.arguments, f"call_{uuid.uuid4().hex[:24]}", part.name)
