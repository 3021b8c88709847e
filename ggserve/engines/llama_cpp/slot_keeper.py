"""Empties llama.cpp's slots, saves their prompts before they are evicted, and restores them for requests that begin
with them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggserve.engines.llama_cpp.listener import Unanswered
from ggserve.engines.llama_cpp.saved_states import LEAST, Post, SavedStates
from ggserve.engines.pool import common_prefix
from ggserve.errors import EngineError, InvalidRequest

log = logging.getLogger("ggserve.model")


@dataclass(eq=False)
class Slot:
    """A slot for one request."""

    id: int
    tokens: Sequence[int] = ()  # of its last prompt; of one with images, the characters of its text
    held: int = 0  # tokens in its KV cache, of its last prompt and answer
    opened = True

    @property
    def prompt_tokens(self) -> int:
        return len(self.tokens)


class SlotKeeper:
    """The keeper of one engine's slots. The thread that holds the slot calls `prepare`, `save` and `empty`."""

    def __init__(self, states: SavedStates | None, post: Post, bytes_per_token: float) -> None:
        """`states`: storage of long prompts; None: nothing is saved."""
        self._states = states
        self._native_post = post
        self._answers = True  # False: the build leaves such requests unanswered, and gets no more of them
        self._bytes_per_token = bytes_per_token  # at most

    def prepare(self, slot: Slot, prompt: Sequence[int]) -> None:
        """Fill a slot with as much of a prompt as memory or disk has, after saving the history that it loses."""
        if self._states is None or not self._answers:
            return
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
        if self._states is None or not self._answers:
            return
        if len(slot.tokens) < LEAST or self._states.knows(slot.tokens):
            return
        if not self._states.has_room(int(self._bytes_per_token * len(slot.tokens))):
            log.warning("a prompt of %d tokens was not saved: PROMPT_CACHE_DIR has no room for it", len(slot.tokens))
            return
        self._states.save(self._post, slot.id, slot.tokens)

    def empty(self, slot: Slot) -> None:
        """Remove a slot's history, which is saved before."""
        self.save(slot)
        slot.tokens, slot.held = (), 0
        if not self._answers:
            return
        try:
            self._post(f"/slots/{slot.id}?action=erase", {})
        except EngineError as error:
            log.warning("slot %d could not be emptied: %s", slot.id, error)

    def act(self, slot: Slot, action: Literal["save", "restore", "erase"], filename: str) -> dict[str, Any]:
        """Perform llama-server's `POST /slots/ID?action=`, with files that this server wrote. Raises InvalidRequest."""
        assert self._states is not None
        if action == "erase":
            slot.tokens, slot.held = (), 0
            erased: dict[str, Any] = self._post(f"/slots/{slot.id}?action=erase", {})
            return erased
        if action == "save":
            answer = self._states.save(self._post, slot.id, slot.tokens, self._states.client_name(filename))
        else:
            state = self._states.named(filename)
            answer = self._states.restore(self._post, slot.id, state)
            slot.tokens = state.tokens.tolist() if answer else ()
            slot.held = len(slot.tokens)
        if answer is None:
            raise InvalidRequest(f"The slot could not be {action}d; see the server's log.", "filename")
        return {**answer, "filename": filename}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self._native_post(path, body)
        except Unanswered:
            self._answers = False
            log.error("llama.cpp does not answer requests about slots: prompts are no longer saved, restored or erased")
            raise
