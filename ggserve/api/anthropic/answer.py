"""An answer's deltas as Anthropic's events, and as a message."""

import uuid
from collections.abc import Iterator
from typing import Any

from ggserve.api.anthropic.errors import anthropic_envelope
from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.blocks import Block, Blocks, Step
from ggserve.api.errors import APIError
from ggserve.generation import Delta

_SIGNATURE = "ggserve"  # clients demand one of each thought, and send it back: nothing reads it


class MessageAnswer:
    """A message in the making."""

    def __init__(self, request: MessagesRequest, model_name: str, context_length: int) -> None:
        self._request = request
        self._context_length = context_length
        self._blocks = Blocks()
        self._last: Delta | None = None
        self._head = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": model_name,
        }

    def take(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The events of a delta."""
        if self._last is None:
            usage = {**_input_usage(delta), "output_tokens": 0}
            ends = {"stop_reason": None, "stop_sequence": None}
            yield {"type": "message_start", "message": {**self._head, "content": [], **ends, "usage": usage}}
            yield {"type": "ping"}
        self._last = delta
        for step in self._blocks.take(delta):
            yield from _block_events(step)

    def end(self) -> Iterator[dict[str, Any]]:
        """The events after the last delta."""
        for step in self._blocks.end():
            yield from _block_events(step)
        yield {"type": "message_delta", "delta": self._stop(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def fail(self, error: APIError) -> Iterator[dict[str, Any]]:
        """The event after an error."""
        yield anthropic_envelope(error)

    @property
    def message(self) -> dict[str, Any]:
        """The whole message."""
        content = [_content(block) for block in self._blocks.all]
        return {**self._head, "content": content, **self._stop(), "usage": self._usage()}

    def _stop(self) -> dict[str, Any]:
        assert self._last is not None
        sequence = self._last.stop_sequence
        if sequence in (self._request.stop_sequences or ()):  # the others are the chat template's
            return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
        reason = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}[
            self._last.finish_reason or "stop"
        ]
        used = self._last.prompt_tokens + self._last.completion_tokens
        if reason == "max_tokens" and used >= self._context_length:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}

    def _usage(self) -> dict[str, Any]:
        assert self._last is not None
        return {
            **_input_usage(self._last),
            "output_tokens": self._last.completion_tokens,
            "output_tokens_details": {"thinking_tokens": self._blocks.reasoning_tokens},
        }


def _input_usage(delta: Delta) -> dict[str, int]:
    """Anthropic's input tokens are those that no cache held."""
    return {
        "input_tokens": delta.prompt_tokens - delta.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": delta.cached_tokens,
    }


def _block_events(step: Step) -> Iterator[dict[str, Any]]:
    block = step.block
    if step.what == "start":
        content = _content(block, "")
        yield {"type": "content_block_start", "index": block.index, "content_block": content}
        return
    if step.what == "piece":
        delta = {
            "text": {"type": "text_delta", "text": step.piece},
            "reasoning": {"type": "thinking_delta", "thinking": step.piece},
            "call": {"type": "input_json_delta", "partial_json": step.piece},
        }[block.kind]
        yield {"type": "content_block_delta", "index": block.index, "delta": delta}
        return
    if block.kind == "reasoning":
        signature = {"type": "signature_delta", "signature": _SIGNATURE}
        yield {"type": "content_block_delta", "index": block.index, "delta": signature}
    yield {"type": "content_block_stop", "index": block.index}


def _content(block: Block, text: str | None = None) -> dict[str, Any]:
    """A block as it is in the message; with `text` "" as it starts."""
    whole = text is None
    text = block.text if text is None else text
    if block.kind == "text":
        return {"type": "text", "text": text}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": _SIGNATURE if whole else ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments}
