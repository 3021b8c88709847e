"""Writes an answer as Anthropic's message or events."""

import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import Response

from ggserve.api.answer import Answer, Block, Step
from ggserve.api.answers import Answers, Piece
from ggserve.api.anthropic.errors import anthropic_envelope
from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.errors import APIError
from ggserve.api.prompts import cache_miss
from ggserve.api.streaming import PING, Waiting, Writer, event, json_response
from ggserve.generation import Delta

WAITING = Waiting(PING, lambda body: b"event: error\ndata: %s\n\n" % body)
_SIGNATURE = "ggserve"  # clients require one for each thinking block and send it back; nothing reads it


class MessageWriter(Writer):
    """Writes a message."""

    keep_alive = PING

    def __init__(self, request: MessagesRequest, model_name: str, context_length: int) -> None:
        self._request = request
        self._context_length = context_length
        self._head = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": model_name,
        }

    def begin(self, answers: Answers, first: Delta) -> Iterator[bytes]:
        usage = {**_input_usage(first), "output_tokens": 0}
        ends = {"stop_reason": None, "stop_sequence": None}
        yield _event("message_start", message={**self._head, "content": [], **ends, "usage": usage})
        yield PING

    def piece(self, piece: Piece) -> Iterator[bytes]:
        for step in piece.steps:
            yield from _block_events(step)

    def end(self, answers: Answers) -> Iterator[bytes]:
        answer = answers.all[0]
        confidence = answer.last.confidence or {}
        yield _event("message_delta", delta=self._stop(answer.last), usage=_usage(answer), **confidence)
        yield _event("message_stop")

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield event(anthropic_envelope(error), "error")

    def whole(self, answers: Answers) -> Response:
        answer = answers.all[0]
        content = [_content(block) for block in answer.blocks]
        confidence = answer.last.confidence or {}
        ends = {**self._stop(answer.last), "usage": _usage(answer), **confidence}
        return json_response({**self._head, "content": content, **ends})

    def _stop(self, last: Delta) -> dict[str, Any]:
        if last.stop_sequence in (self._request.stop_sequences or ()):  # other stop strings come from the chat template
            return {"stop_reason": "stop_sequence", "stop_sequence": last.stop_sequence}
        reason = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}[last.finish_reason or "stop"]
        if reason == "max_tokens" and last.prompt_tokens + last.completion_tokens >= self._context_length:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        **_input_usage(answer.last),
        "output_tokens": answer.last.completion_tokens,
        "output_tokens_details": {"thinking_tokens": answer.reasoning_tokens},
    }


def _input_usage(delta: Delta) -> dict[str, Any]:
    """Return Anthropic's usage fields; its input tokens exclude cached ones."""
    return {
        "input_tokens": delta.prompt_tokens - delta.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": delta.cached_tokens,
        **cache_miss(delta.cache_miss),
    }


def _block_events(step: Step) -> Iterator[bytes]:
    block = step.block
    if step.what == "start":
        content = _content(block, "")
        yield _event("content_block_start", index=block.index, content_block=content)
        return
    if step.what == "piece":
        delta = {
            "text": {"type": "text_delta", "text": step.piece},
            "reasoning": {"type": "thinking_delta", "thinking": step.piece},
            "call": {"type": "input_json_delta", "partial_json": step.piece},
        }[block.kind]
        yield _event("content_block_delta", index=block.index, delta=delta)
        return
    if step.what == "cite":
        cited = {"type": "citations_delta", "citation": _citation(block)}
        yield _event("content_block_delta", index=block.index, delta=cited)
        return
    if block.kind == "reasoning":
        signature = {"type": "signature_delta", "signature": _SIGNATURE}
        yield _event("content_block_delta", index=block.index, delta=signature)
    yield _event("content_block_stop", index=block.index)


def _citation(block: Block) -> dict[str, Any]:
    citation = block.citation
    assert citation is not None
    return {
        "type": "char_location",
        "cited_text": citation.text,
        "document_index": citation.document,
        "document_title": citation.title,
        "start_char_index": citation.start,
        "end_char_index": citation.end,
        "file_id": None,
    }


def _content(block: Block, text: str | None = None) -> dict[str, Any]:
    """Return a block as in the message; with `text` "", as it starts."""
    whole = text is None
    text = block.text if text is None else text
    if block.kind == "text":
        cited = {"citations": [_citation(block)]} if whole and block.citation else {}
        return {"type": "text", "text": text, **cited}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": _SIGNATURE if whole else ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments}
