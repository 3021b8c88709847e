"""The turns of requests in llama.cpp's loop, which would evaluate a long prompt to its end before the next one."""

import threading
import time
from collections.abc import Callable

_POLL = 0.25  # seconds between looks at whether a request that rests is still wanted


class Turns:
    """Of one engine. A long prompt rests after each piece if other requests compute, for as long as the piece took: so
    the others have half of the time, and each prompt gets on."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running: list[Turn] = []  # requests that compute; those that rest are left out

    def turn(self, priority: int = 0) -> "Turn":
        """The turn of a request; it rests for those of the same or a lower `priority`, and until the end of those of a
        lower one."""
        return Turn(self, priority)


class Turn:
    """A request, which computes in the block of its `with` statement."""

    def __init__(self, turns: Turns, priority: int) -> None:
        self._turns = turns
        self.priority = priority
        self._began = 0.0

    def __enter__(self) -> "Turn":
        with self._turns.changed:
            self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._turns.changed:
            self._end()

    @property
    def shall_rest(self) -> bool:
        """Return whether another request should get the next turn."""
        return bool(self._rivals())

    def rest(self, cancelled: Callable[[], bool]) -> None:
        """Lets others compute for as long as this request's piece took, or until they have ended. Blocks."""
        with self._turns.changed:
            self._end()
            until = 2 * time.monotonic() - self._began
            while rivals := self._rivals():
                left = until - time.monotonic()
                urgent = any(other.priority < self.priority for other in rivals)
                if cancelled() or (left <= 0 and not urgent):
                    break
                self._turns.changed.wait(_POLL if urgent else min(left, _POLL))
            self._begin()

    def _begin(self) -> None:
        self._turns.running.append(self)
        self._began = time.monotonic()

    def _end(self) -> None:
        self._turns.running.remove(self)
        self._turns.changed.notify_all()

    def _rivals(self) -> "list[Turn]":
        others = (other for other in list(self._turns.running) if other is not self)
        return [other for other in others if other.priority <= self.priority]
