"""Turns tokens' bytes into text that may be shown: whole characters, and nothing of a stop string."""

import codecs
from collections.abc import Sequence


class StopStrings:
    """Finds stop strings in a text that arrives in pieces, and holds back a possible start of one.

    `met` is the one that was found: the first in the text, and of several that begin there, the first given.
    """

    def __init__(self, stops: Sequence[str], *, shown: bool = False) -> None:
        """With `shown`, the text includes the stop string that was met."""
        self._stops = tuple(stop for stop in stops if stop)
        self._shown = shown
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.met: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; return the text that may be shown, and whether a stop string was met."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(at, order) for order, stop in enumerate(self._stops) if (at := text.find(stop)) >= 0]
        if found:
            at, order = min(found)
            self._held, self.met = "", self._stops[order]
            return text[: at + len(self.met) * self._shown], True
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                self._held = tail
                return text[:start], False
        self._held = ""
        return text, False

    def finish(self) -> str:
        """Return the text that was held back, when no more will arrive."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one answer, token by token.

    A character split over tokens is held until it is complete; bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str], *, shows_stop: bool = False) -> None:
        self._pieces = pieces  # by token id, the bytes that the token adds
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(stops, shown=shows_stop)
        self.characters = 0  # characters that the tokens completed so far, shown or not

    @property
    def met(self) -> str | None:
        """The stop string that was met."""
        return self._stops.met

    def push(self, token: int, *, may_stop: bool = True) -> tuple[str, bool]:
        """Take the next token; return the text that may be shown, and whether a stop string was met. `may_stop`: look
        for stop strings."""
        text = self._decoder.decode(self._pieces[token])
        self.characters += len(text)
        return self._stops.push(text) if may_stop else (text, False)

    def finish(self, *, drops_half: bool = False) -> tuple[str, bool]:
        """Return the rest, when no more tokens will arrive; an incomplete character at the end becomes U+FFFD, or is
        dropped."""
        half = "" if drops_half else self._decoder.decode(b"", final=True)
        text, stopped = self._stops.push(half)
        return text + ("" if stopped else self._stops.finish()), stopped
