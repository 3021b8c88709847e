"""A running request of this engine: its prompt, its sampler, its text so far."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.contract import Delta, FinishReason, SamplingParams
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
    ) -> None:
        super().__init__()
        self.prompt = list(prompt)
        self.cached_tokens = 0
        self._end_ids = frozenset() if params.ignore_eos else end_ids
        room = context_length - len(self.prompt)
        self._max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        self._sampler = Sampler(params, self.prompt, end_ids)
        self._text = TextStream(pieces, params.stop)
        self._completion_tokens = 0

    @property
    def wants_tokens(self) -> bool:
        return self._max_tokens > 0

    def step(self, logits: NDArray[np.float32]) -> int | None:
        """Chooses the next token, sends what it shows, and returns it; None when the answer is complete."""
        token = self._sampler.sample(logits)
        self._completion_tokens += 1
        if token in self._end_ids:
            self.finish("stop")
            return None
        text, stopped = self._text.push(token)
        if stopped:
            self.end = self._delta(text, "stop")
            return None
        if self._completion_tokens >= self._max_tokens:
            self.finish("length", text)
            return None
        if text:
            self.put(self._delta(text))
        return token

    def finish(self, reason: FinishReason, text: str = "") -> None:
        """Makes the last delta, with the text that was held back."""
        rest, stopped = self._text.finish()
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
