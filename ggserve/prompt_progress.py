"""The progress of a prompt's evaluation, and why tokens of it were evaluated again.

An engine writes it, and anyone may read it at any time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MissReason = Literal["eviction", "lora", "model", "template", "tools", "system", "message", "text"]

_REASONS: dict[MissReason, str] = {
    "eviction": "another prompt has taken the slot {slot}, which held them",
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
    """The reason why tokens of an earlier prompt were evaluated again."""

    reason: MissReason
    tokens: int  # number of tokens evaluated again
    slot: int  # tokens of the nearest earlier prompt
    token: int  # index of the first token that the cache did not have, or at which the prompts differ
    message: int | None = None  # index of the first message that differs

    def __str__(self) -> str:
        why = _REASONS[self.reason].format(slot=self.slot, token=self.token, message=self.message)
        return f"{self.tokens} tokens evaluated again: {why}"


class PromptProgress:
    """The progress of one prompt. All counts are tokens; they are 0 until its evaluation begins."""

    def __init__(self) -> None:
        self.slot: int | None = None  # None: it waits for one
        self.total = 0
        self.cached = 0  # tokens that the KV cache held before
        self.processed = 0  # cached or evaluated tokens
        self.milliseconds = 0.0  # seconds since the evaluation began
        self.miss: CacheMiss | None = None
        self.explain: Callable[[int, int], CacheMiss | None] | None = None  # from the slot and `cached`
        self._began = 0.0

    def begin(self, slot: int, total: int, cached: int) -> None:
        """Begin the evaluation; only the first call counts."""
        if self.total:
            return
        self._began = time.perf_counter()
        self.slot, self.total, self.cached, self.processed = slot, total, cached, cached
        if self.explain:
            self.miss = self.explain(slot, cached)

    def advance(self, processed: int) -> None:
        """Record that this many tokens of the prompt and its answer are processed."""
        if self.processed < self.total:
            self.processed = max(self.processed, min(processed, self.total))
            self.milliseconds = (time.perf_counter() - self._began) * 1000
