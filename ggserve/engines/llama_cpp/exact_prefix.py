"""Keeps a llama-server from reusing the KV cache of other tokens than a prompt's.

Some builds compare a prompt with their cache as text, and skip spaces and line breaks: code that is indented otherwise
would be evaluated with the old indentation. So a slot is cut to the tokens that it shares with the next prompt before
that prompt is sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ggserve.engines.pool import common_prefix

_LEAST = 16  # shared tokens that are worth a request of their own


@dataclass
class _Held:
    """The contents of a slot: a prompt, and the answer after it."""

    prompt: Sequence[int]
    answer: str = ""
    count: int | None = None  # tokens of the answer, without the one that ends it; None if not all of it is known


class ExactPrefixes:
    """The contents of one server's slots, as far as they are known. Only one request at a time uses a slot."""

    def __init__(self, tokens_of: Callable[[str], list[int]]) -> None:
        self._tokens_of = tokens_of
        self._held: dict[int, _Held] = {}

    def prepare(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return a request that reuses only equal tokens, and one that must run before it to cut its slot, or None."""
        prompt, slot = body["prompt"], body.get("id_slot", -1)
        if not body.get("cache_prompt", True):
            return body, None
        held = self._held.get(slot) if isinstance(prompt, list) else None
        if held is None:
            return {**body, "cache_prompt": False}, None
        shared = common_prefix(held.prompt, prompt)
        if shared == len(held.prompt) < len(prompt):
            answer = self._answer(held)
            if answer is not None:
                shared += common_prefix(answer, prompt[shared:])
            whole = answer is not None and shared == len(held.prompt) + len(answer)
        else:
            whole = False
        if whole or shared == len(prompt):
            return body, None
        if shared < _LEAST:
            return {**body, "cache_prompt": False}, None
        cut = {"prompt": prompt[:shared], "n_predict": 1, "id_slot": slot, "samplers": ["top_k"], "top_k": 1}
        return body, cut

    def begin(self, body: dict[str, Any]) -> None:
        """Note that a request is about to change its slot; without a slot, it can be any."""
        if (slot := body.get("id_slot", -1)) < 0:
            self._held.clear()
        self._held.pop(slot, None)

    def evaluated(self, body: dict[str, Any]) -> None:
        """Note that a request's slot has its whole prompt, and the beginning of an answer."""
        if (slot := body.get("id_slot", -1)) >= 0 and isinstance(body["prompt"], list):
            self._held[slot] = _Held(body["prompt"])

    def end(self, body: dict[str, Any], answer: str, count: int) -> None:
        """Note the whole answer after the prompt in a request's slot, and its number of tokens."""
        if (held := self._held.get(body.get("id_slot", -1))) is not None:
            held.answer, held.count = answer, count

    def restore(self, slot: int, tokens: Sequence[int]) -> None:
        """Note the tokens at the beginning of what a slot was filled with."""
        self._held[slot] = _Held(tokens)

    def forget(self) -> None:
        """Note that nothing is known any more."""
        self._held.clear()

    def _answer(self, held: _Held) -> list[int] | None:
        """Return the tokens of an answer; None if they are not known, because the model spelled it otherwise than its
        tokenizer does, or with control tokens."""
        if held.count is None:
            return None
        tokens = self._tokens_of(held.answer) if held.answer else []
        return tokens if len(tokens) == held.count else None
