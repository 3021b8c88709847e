"""A running request of this engine: its prompt, its sampler, its text so far."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.contract import Delta, FinishReason, SamplingParams
from engine.errors import GenerationError
from engine.grammar import Matcher
from engine.request import RunningRequest
from engine.sampling import Sampler
from engine.stop_strings import TextStream


class Generation(RunningRequest):
    """One answer in the making, token by token."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        pieces: Sequence[bytes],
        end_ids: frozenset[int],
        context_length: int,
        matcher: Matcher | None = None,  # holds the answer to a grammar
    ) -> None:
        super().__init__()
        self.prompt = list(prompt)
        self.cached_tokens = 0
        self._end_ids = frozenset() if params.ignore_eos else end_ids
        room = context_length - len(self.prompt)
        self._max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        self._sampler = Sampler(params, self.prompt, end_ids)
        self._text = TextStream(pieces, params.stop)
        self._matcher = matcher
        self._completion_tokens = 0

    @property
    def wants_tokens(self) -> bool:
        return self._max_tokens > 0

    def step(self, logits: NDArray[np.float32]) -> list[int]:
        """Chooses the next token and all that must follow it, sends what they show, and returns them; none when the
        answer is complete."""
        tokens = self._choose(logits)
        shown = ""
        for token in tokens:
            self._completion_tokens += 1
            if token in self._end_ids:
                self.finish("stop", shown)
                return []
            text, stopped = self._text.push(token)
            shown += text
            if stopped:
                self.end = self._delta(shown, "stop")
                return []
        if self._matcher is not None and self._matcher.ended:
            self.finish("stop", shown)
            return []
        if self._completion_tokens >= self._max_tokens:
            self.finish("length", shown)
            return []
        if shown:
            self.put(self._delta(shown))
        return tokens

    def _choose(self, logits: NDArray[np.float32]) -> list[int]:
        """The next token, and all that must follow it in the grammar; none where nothing can come."""
        if self._matcher is None:
            return [self._sampler.sample(logits)]
        if tokens := self._forced(self._max_tokens - self._completion_tokens):
            return tokens
        allowed = self._matcher.allowed()
        if self._matcher.ended:
            return []
        token = self._sampler.sample(logits, allowed)
        if token in self._end_ids:
            return [token]
        self._follow([token])
        return [token, *self._forced(self._max_tokens - self._completion_tokens - 1)]

    def _forced(self, room: int) -> list[int]:
        """The tokens that must come next, `room` of them at most."""
        assert self._matcher is not None
        tokens = self._matcher.forced()[:room]
        self._follow(tokens)
        for token in tokens:
            self._sampler.count(token)
        return tokens

    def _follow(self, tokens: Sequence[int]) -> None:
        assert self._matcher is not None
        if not self._matcher.take(tokens):
            raise GenerationError("The answer does not follow the grammar.")

    def finish(self, reason: FinishReason, text: str = "") -> None:
        """Makes the last delta, with the text that was held back."""
        rest, stopped = self._text.finish(drops_half=self._matcher is not None)  # or the grammar has no such text
        self.end = self._delta(text + rest, "stop" if stopped else reason)

    def _delta(self, text: str, reason: FinishReason | None = None) -> Delta:
        return Delta(
            text,
            len(self.prompt),
            self.cached_tokens,
            self._completion_tokens,
            finish_reason=reason,
            stop_sequence=self._text.met,
        )
