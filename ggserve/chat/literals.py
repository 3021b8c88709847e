"""Finds the literals of a chat format in a text that arrives in pieces.

White space in a literal, and around JSON's punctuation in it, matches any white space or none; holes match ids and
numbers. A literal is stripped first; the parser skips the white space at its edges.
"""

import re
from collections.abc import Iterable
from itertools import takewhile

from ggserve.chat.format import ID, INDEX, NAME

MORE = -1  # the text ends before it is decided
_PARTS = re.compile(rf"\s+|[{ID}{INDEX}{NAME}]|[{{}}\[\]:,]|[^\s{ID}{INDEX}{NAME}{{}}\[\]:,]+")
_SPACE = re.compile(r"\s*")
_HOLES = {ID: re.compile(r"[\w.:-]{1,128}"), INDEX: re.compile(r"\d{1,9}"), NAME: re.compile(r"[\w.-]{1,128}")}


class Pattern:
    """One literal, compiled."""

    def __init__(self, literal: str) -> None:
        self.text = literal.strip()
        self._parts: list[tuple[str, bool]] = []  # also matches white space before it
        loose = False
        for part in _PARTS.findall(self.text):
            punctuation = part in "{}[]:,"
            if not part.isspace():
                self._parts.append((part, bool(self._parts) and (loose or punctuation)))
            loose = punctuation or part.isspace()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def match(self, text: str, at: int = 0) -> int | None:
        """Return the end of the literal that begins at `at`, None if it does not begin there, or MORE if more text may
        complete it."""
        return self._match(text, at)[0]

    def matched(self, text: str, at: int = 0) -> int:
        """Return the end of the parts of the literal that occur at `at`: models leave out some at its end."""
        return self._match(text, at)[1]

    def find(self, text: str, at: int = 0) -> tuple[int, int] | None:
        """Return the beginning and the end of the first occurrence. The end is MORE if the text ends within it."""
        first = self._parts[0][0][0]
        while (at := text.find(first, at)) >= 0:
            end = self.match(text, at)
            if end is not None:
                return at, end
            at += 1
        return None

    def _match(self, text: str, at: int) -> tuple[int | None, int]:
        done = at
        for part, loose in self._parts:
            if loose:
                at = skip_space(text, at)
            if hole := _HOLES.get(part):
                found = hole.match(text, at)
                if found is None:
                    return (MORE if at == len(text) else None), done
                at = found.end()
                if at == len(text):
                    return MORE, done
            elif text.startswith(part, at):
                at += len(part)
            else:
                return (MORE if part.startswith(text[at:]) else None), done
            done = at
        return at, done


def earliest(
    text: str, patterns: Iterable[Pattern], at: int = 0, *, final: bool = False
) -> tuple[int, int, Pattern] | None:
    """Return the beginning and the end of the first of several literals, and the literal. The end is MORE if the text
    ends before one of those that begin there is certain; with `final`, no more text will arrive."""
    found = [(*hit, number, pattern) for number, pattern in enumerate(patterns) if (hit := pattern.find(text, at))]
    if final:
        found = [hit for hit in found if hit[1] != MORE]
    best = min(found, key=lambda hit: (hit[0], hit[1] != MORE, hit[2]), default=None)
    return best and (best[0], best[1], best[3])


def first_characters(patterns: Iterable[Pattern]) -> re.Pattern[str]:
    """Return a pattern that finds where one of the literals may begin."""
    firsts = "".join(re.escape(pattern.text[0]) for pattern in patterns)
    return re.compile(f"[{firsts}]" if firsts else "(?!)")


def skip_space(text: str, at: int = 0) -> int:
    """Return the end of the white space at `at`."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def common_beginning(one: str, other: str) -> str:
    """Return the common beginning of two texts."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
