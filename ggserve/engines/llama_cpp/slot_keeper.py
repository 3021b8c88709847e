"""Saves the prompts of llama.cpp's slots before they are evicted, and restores them for requests that begin with
them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggserve.engines.llama_cpp.saved_states import LEAST, Post, SavedStates
from ggserve.engines.pool import common_prefix
from ggserve.errors import InvalidRequest

log = logging.getLogger("ggserve.model")


@dataclass(eq=False)
class Slot:
    """A slot for one request."""

    id: int
    tokens: Sequence[int] = ()  # of its last prompt; of one with images, the characters of its text
    opened = True

    @property
    def prompt_tokens(self) -> int:
        return len(self.tokens)


class SlotKeeper:
    """The keeper of one engine's slots. The thread that holds the slot calls `prepare` and `save`."""

    def __init__(self, states: SavedStates, post: Post, bytes_per_token: float) -> None:
        self._states = states
        self._post = post
        self._bytes_per_token = bytes_per_token  # at most

    def prepare(self, slot: Slot, prompt: Sequence[int]) -> None:
        """Fill a slot with as much of a prompt as memory or disk has, after saving the history that it loses."""
        held = common_prefix(slot.tokens, prompt)
        if len(slot.tokens) - held >= LEAST:
            self.save(slot)
        state = self._states.best(prompt, held)
        if state is None:
            return
        started = time.perf_counter()
        if self._states.restore(self._post, slot.id, state) is None:
            slot.tokens = ()
            return
        log.info(
            "restored %d tokens of a prompt in %.2f s (%.1f MB)",
            common_prefix(state.tokens.tolist(), prompt),
            time.perf_counter() - started,
            state.size / 1e6,
        )

    def save(self, slot: Slot) -> None:
        """Save a slot's history, unless it is short or already saved."""
        if len(slot.tokens) < LEAST or self._states.knows(slot.tokens):
            return
        if not self._states.has_room(int(self._bytes_per_token * len(slot.tokens))):
            log.warning("a prompt of %d tokens was not saved: PROMPT_CACHE_DIR has no room for it", len(slot.tokens))
            return
        self._states.save(self._post, slot.id, slot.tokens)

    def act(self, slot: Slot, action: Literal["save", "restore", "erase"], filename: str) -> dict[str, Any]:
        """Perform llama-server's `POST /slots/ID?action=`, with files that this server wrote. Raises InvalidRequest."""
        if action == "erase":
            slot.tokens = ()
            erased: dict[str, Any] = self._post(f"/slots/{slot.id}?action=erase", {})
            return erased
        if action == "save":
            answer = self._states.save(self._post, slot.id, slot.tokens, self._states.client_name(filename))
        else:
            state = self._states.named(filename)
            answer = self._states.restore(self._post, slot.id, state)
            slot.tokens = state.tokens.tolist() if answer else ()
        if answer is None:
            raise InvalidRequest(f"The slot could not be {action}d; see the server's log.", "filename")
        return {**answer, "filename": filename}
