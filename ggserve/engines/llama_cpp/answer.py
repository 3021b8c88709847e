"""The answers to one request of llama.cpp in the making: their chunks in, deltas out."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from ggserve.engines.llama_cpp.scoring import NativeScorer
from ggserve.engines.logprobs import ShownTokens
from ggserve.engines.request import RunningRequest
from ggserve.engines.stop_strings import StopStrings
from ggserve.errors import ContextOverflow, EngineError, GenerationError, InvalidRequest
from ggserve.generation import Delta, FinishReason, SamplingParams, ScoredToken
from ggserve.grammar.matcher import Matcher

log = logging.getLogger("ggserve.model")


class Answer(RunningRequest):
    """`receive` gets the chunks of one answer, after `begin`. `matcher` follows it: where llama.cpp gives a grammar up,
    in the middle of an answer even, it logs why and goes on without."""

    def __init__(
        self,
        params: SamplingParams,
        context_length: int,
        scorer: NativeScorer,
        *,
        prompt: Sequence[int] | None = None,  # where its tokens are known
        matcher: Matcher | None = None,
    ) -> None:
        super().__init__(params.n)
        self.params = params
        self.prompt = prompt
        self.prompt_scores: tuple[ScoredToken, ...] = ()  # sent with the first delta
        self._grammar = matcher
        self._context_length = context_length
        self._scorer = scorer
        self._wants_tokens = params.max_tokens != 0

    def begin(self, index: int) -> None:
        """Starts the answer of that number."""
        self._index = index
        self._complete = False
        self._matcher = self._grammar and self._grammar.copy()
        self._scores = None if self.params.logprobs is None else ShownTokens()
        self._ids: list[int] = []  # of the tokens so far, where their scores are asked for
        # llama.cpp's own stop strings lose the text that they hold back when an answer ends by its length.
        self._stops = StopStrings(self.params.stop)
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
        return self._complete or self.end is not None

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
            text = choice["text"]
            if self._wants_tokens:
                self._score(text, choice.get("logprobs"))
            self._say(text)
        if not self._complete and self.end is None and (usage := chunk.get("usage")):
            self._completion_tokens = usage["completion_tokens"]
            self._finish(self._stops.finish(), self._finish_reason or "stop")

    def _start(self, progress: dict[str, int]) -> None:
        self._prompt_tokens, self._cached_tokens = progress["total"], progress["cache"]
        if self._prompt_tokens >= self._context_length:  # llama.cpp rounds the context up
            self.end = ContextOverflow(self._prompt_tokens, self._context_length)

    def _say(self, text: str) -> None:
        if not self._wants_tokens:  # llama.cpp makes one all the same
            if text or self._finish_reason:
                self._completion_tokens = 0
                self._finish("", "length")
            return
        complete = self._follow(text)
        if self.end is not None:
            return
        text, stopped = self._stops.push(text)
        if stopped:
            self._finish(text, "stop", shows_all=False)
        elif complete:
            self._finish(text + self._stops.finish(), "stop")
        elif self._finish_reason is None and self._prompt_tokens + self._completion_tokens >= self._context_length:
            self._finish(text + self._stops.finish(), "length")
        elif text:
            self.put(self._delta(text, None))

    def _follow(self, text: str) -> bool:
        """Takes a piece of the answer into the grammar; returns whether nothing can follow it there."""
        if self._matcher is None:
            return False
        if not self._matcher.take_text(text) or (self._finish_reason == "stop" and not self._matcher.complete):
            self.end = GenerationError("llama.cpp's answer does not follow the grammar.")
        return self._matcher.ended

    def _score(self, text: str, logprobs: dict[str, Any] | None) -> None:
        if self._scores is None or not logprobs:
            return
        top = self.params.logprobs or 0
        tokens = [self._scorer.token(entry, top) for entry in logprobs["content"]]
        missing = self._completion_tokens - len(self._ids) - len(tokens)
        if missing > 0 and tokens and text and self.prompt is not None:
            prefix = [*self.prompt, *self._ids]
            tokens = self._scorer.split(prefix, text, missing + 1, tokens[-1], top)
        for token in tokens[:-1]:
            self._scores.add(token, 0)
        if tokens:
            self._scores.add(tokens[-1], len(text))
        self._ids += [token.id for token in tokens]

    def _finish(self, text: str, reason: FinishReason, *, shows_all: bool = True) -> None:
        """Ends this answer; with the last one the request."""
        delta = self._delta(text, reason)
        if self._scores is not None and shows_all:
            delta = replace(delta, tokens=delta.tokens + self._scores.take_all())
        self._complete = True
        if self._index + 1 < self.params.n:
            self.put(delta)
        else:
            self.end = delta

    def _delta(self, text: str, reason: FinishReason | None) -> Delta:
        prompt_scores, self.prompt_scores = self.prompt_scores, ()
        return Delta(
            text,
            self._prompt_tokens,
            self._cached_tokens,
            self._completion_tokens,
            reason,
            stop_sequence=self._stops.met,
            index=self._index,
            tokens=() if self._scores is None else self._scores.take(len(text)),
            prompt=prompt_scores,
            accepted_tokens=self._accepted_tokens,
            rejected_tokens=self._rejected_tokens,
        )


def native_error(error: dict[str, Any], context_length: int) -> EngineError:
    """llama.cpp's error object as one of ours."""
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"], context_length)
    return (InvalidRequest if error.get("code") == 400 else GenerationError)(f"llama.cpp: {error['message']}")
