"""The progress of the evaluation of a prompt, and the reason why tokens of it were evaluated again.

An engine writes it; anyone can read it at any time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MissReason = Literal["eviction", "lora", "model", "template", "tools", "system", "message", "text"]

_REASONS: dict[MissReason, str] = {
    "eviction": "another prompt has taken slot {slot}, which contained them",
    "lora": "the prompt in slot {slot} was evaluated with other LoRA adapters",
    "model": "the model's sliding window or recurrent state in slot {slot} cannot go back to token {token}",
    "template": "the chat template renders the messages in slot {slot} differently now, from token {token} on",
    "tools": "the tools differ from those of the prompt in slot {slot}, from token {token} on",
    "system": "the system prompt (message {message}) differs from that in slot {slot}, from token {token} on",
    "message": "message {message} differs from that of the prompt in slot {slot}, from token {token} on",
    "text": "the prompt differs from that in slot {slot}, from token {token} on",
}


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """The reason why tokens that an earlier prompt shares were evaluated again."""

    reason: MissReason
    tokens: int  # number of tokens evaluated again
    slot: int  # of the most similar earlier prompt
    token: int  # index of the first token that is not in the cache, or at which the prompts differ
    message: int | None = None  # index of the first message that differs

    def __str__(self) -> str:
        why = _REASONS[self.reason].format(slot=self.slot, token=self.token, message=self.message)
        return f"{self.tokens} tokens evaluated again: {why}"


class PromptProgress:
    """The progress of one prompt. All counts are in tokens; they are 0 until its evaluation begins."""

    def __init__(self) -> None:
        self.slot: int | None = None  # None: waiting for a slot
        self.total = 0
        self.cached = 0  # tokens that were already in the KV cache
        self.processed = 0  # tokens cached or evaluated
        self.milliseconds = 0.0  # time since the evaluation began
        self.miss: CacheMiss | None = None
        self.explain: Callable[[int, int], CacheMiss | None] | None = None  # called with the slot and `cached`
        self._began = 0.0

    def begin(self, slot: int, total: int, cached: int) -> None:
        """Record the beginning of the evaluation. Only the first call counts."""
        if self.total:
            return
        self._began = time.perf_counter()
        self.slot, self.total, self.cached, self.processed = slot, total, cached, cached
        if self.explain:
            self.miss = self.explain(slot, cached)

    def advance(self, processed: int) -> None:
        """Record the number of processed tokens, of the prompt and its answer."""
        if self.processed < self.total:
            self.processed = max(self.processed, min(processed, self.total))
            self.milliseconds = (time.perf_counter() - self._began) * 1000
