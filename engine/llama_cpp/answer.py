"""An answer of llama.cpp in the making: its chunks in, deltas out."""

import logging
from typing import Any

import orjson

from engine.contract import Delta, FinishReason, SamplingParams, ToolCallDelta
from engine.errors import ContextOverflow, EngineError, GenerationError, InvalidRequest
from engine.grammar import Matcher
from engine.request import RunningRequest
from engine.stop_strings import StopStrings

log = logging.getLogger("ggserve.model")


class Answer(RunningRequest):
    """`receive` gets the chunks of one answer. `matcher` follows it: where llama.cpp gives a grammar up, in the middle
    of an answer even, it logs why and goes on without."""

    def __init__(self, params: SamplingParams, context_length: int, matcher: Matcher | None = None) -> None:
        super().__init__()
        self._matcher = matcher
        self._context_length = context_length
        self._wants_tokens = params.max_tokens != 0
        # llama.cpp's own stop strings lose the text that they hold back when an answer ends by its length.
        self._stops = StopStrings(params.stop)
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0
        self._accepted_tokens = self._rejected_tokens = 0
        self._finish_reason: FinishReason | None = None

    def receive(self, chunk: bytes) -> bool:
        """Takes a chunk of JSON; returns whether the native call shall end."""
        if self.cancelled:
            return True
        try:
            self._take(orjson.loads(chunk))
        except Exception as error:  # the native caller would swallow it
            log.exception("a chunk of llama.cpp cannot be read")
            self.end = GenerationError(f"{type(error).__name__}: {error}")
        return self.end is not None

    def _take(self, chunk: dict[str, Any]) -> None:
        if progress := chunk.get("prompt_progress"):
            self._start(progress)
            return
        if error := chunk.get("error"):
            self.end = native_error(error, self._context_length)
            return
        if timings := chunk.get("timings"):
            self._completion_tokens = timings["predicted_n"]
            self._accepted_tokens = timings.get("draft_n_accepted", 0)
            self._rejected_tokens = timings.get("draft_n", 0) - self._accepted_tokens
        if choices := chunk["choices"]:
            choice = choices[0]
            self._finish_reason = choice["finish_reason"]
            delta = choice.get("delta")
            self._say(choice["text"] if delta is None else delta.get("content") or "", delta or {})
        if self.end is None and (usage := chunk.get("usage")):
            self._completion_tokens = usage["completion_tokens"]
            self.end = self._delta(self._stops.finish(), self._finish_reason or "stop")

    def _start(self, progress: dict[str, int]) -> None:
        self._prompt_tokens, self._cached_tokens = progress["total"], progress["cache"]
        if self._prompt_tokens >= self._context_length:  # llama.cpp rounds the context up
            self.end = ContextOverflow(self._prompt_tokens, self._context_length)

    def _say(self, text: str, delta: dict[str, Any]) -> None:
        if not self._wants_tokens:  # llama.cpp makes one all the same
            if text or self._finish_reason:
                self._completion_tokens = 0
                self.end = self._delta("", "length")
            return
        complete = self._follow(text)
        if self.end is not None:
            return
        text, stopped = self._stops.push(text)
        reasoning = delta.get("reasoning_content") or ""
        calls = tuple(map(_tool_call, delta.get("tool_calls") or ()))
        if stopped:
            self.end = self._delta(text, "stop")
        elif complete:
            self.end = self._delta(text + self._stops.finish(), "stop")
        elif self._finish_reason is None and self._prompt_tokens + self._completion_tokens >= self._context_length:
            self.end = self._delta(text + self._stops.finish(), "length", reasoning, calls)
        elif text or reasoning or calls:
            self.put(self._delta(text, None, reasoning, calls))

    def _follow(self, text: str) -> bool:
        """Takes a piece of the answer into the grammar; returns whether nothing can follow it there."""
        if self._matcher is None:
            return False
        if not self._matcher.take_text(text) or (self._finish_reason == "stop" and not self._matcher.complete):
            self.end = GenerationError("llama.cpp's answer does not follow the grammar.")
        return self._matcher.ended

    def _delta(
        self,
        text: str,
        reason: FinishReason | None,
        reasoning: str = "",
        calls: tuple[ToolCallDelta, ...] = (),
    ) -> Delta:
        return Delta(
            text,
            self._prompt_tokens,
            self._cached_tokens,
            self._completion_tokens,
            reason,
            reasoning,
            calls,
            stop_sequence=self._stops.met,
            accepted_tokens=self._accepted_tokens,
            rejected_tokens=self._rejected_tokens,
        )


def native_error(error: dict[str, Any], context_length: int) -> EngineError:
    """llama.cpp's error object as one of ours."""
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"], context_length)
    return (InvalidRequest if error.get("code") == 400 else GenerationError)(f"llama.cpp: {error['message']}")


def _tool_call(call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function", {})
    return ToolCallDelta(call["index"], function.get("arguments") or "", call.get("id"), function.get("name"))
