"""Tells calls apart from the text of an answer that arrives in pieces. What only looks like a call stays text."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from ggserve.chat.tool_calls.format import CallFormat

_HEAD_SO_FAR = re.compile(r"\s*[\w.\-\[\]>]{0,160}\s*")  # of a format whose calls have their names before JSON
_BEGINNINGS = ('{"name":', '{"type":"function"')


@dataclass(frozen=True)
class CallPiece:
    """A piece of a call: its name comes first and once, its arguments are JSON text in pieces."""

    index: int
    arguments: str = ""
    name: str | None = None


Part = str | CallPiece


class CallReader:
    """Reads one answer. A call begins once the name of one of the functions and a brace have come."""

    def __init__(self, form: CallFormat, names: Collection[str]) -> None:
        self._format = form
        self._names = frozenset(names)
        self._held = ""
        self._state = self._read_text if form.opening else self._read_beginning
        self._calls = 0
        self._braces = _Braces()  # of the arguments, or of the whole call as long as they have not begun
        self._scanned = 0  # characters that have been looked at for the end of the whole call
        self._begun = form.opening  # what stands before the call that is being read, should it be none

    def push(self, text: str) -> list[Part]:
        """Takes the next piece; returns the text and the pieces of calls that are certain."""
        self._held += text
        parts: list[Part] = []
        while self._state(parts):
            pass
        return [part for part in parts if part]

    def finish(self) -> list[Part]:
        """The rest, when no more text comes."""
        held, self._held = self._held, ""
        if self._state == self._read_head:
            whole = _whole_call(held, self._names)
            return [CallPiece(self._calls, whole[1], whole[0])] if whole else [self._begun + held]
        if self._state == self._read_list:
            return [self._begun + held]
        if self._state in (self._read_text, self._read_beginning) and not (self._calls and held.isspace()):
            return [held] if held else []
        return []

    def _read_beginning(self, parts: list[Part]) -> bool:
        """Of an answer in a format without an opening: calls, or text to its end."""
        beginning = "".join(self._held.split())
        if not any(known.startswith(beginning) or beginning.startswith(known) for known in _BEGINNINGS):
            self._state = self._read_plain
        elif beginning.startswith(_BEGINNINGS):
            self._start()
        else:
            return False
        return True

    def _read_plain(self, parts: list[Part]) -> bool:
        parts.append(self._held)
        self._held = ""
        return False

    def _read_text(self, parts: list[Part]) -> bool:
        opening = self._format.opening
        at = self._held.find(opening)
        if at >= 0:
            before, self._held = self._held[:at], self._held[at + len(opening) :]
            self._say(before, parts)
            self._begun = opening
            if self._format.listed:
                self._state = self._read_list
            else:
                self._start()
            return True
        kept = next((size for size in range(len(opening) - 1, 0, -1) if self._held.endswith(opening[:size])), 0)
        text = self._held[: len(self._held) - kept]
        if self._calls and not text.strip():
            return False  # space between calls
        self._say(text, parts)
        self._held = self._held[len(text) :]
        return False

    def _say(self, text: str, parts: list[Part]) -> None:
        if not (self._calls and text.isspace()):
            parts.append(text)

    def _read_list(self, parts: list[Part]) -> bool:
        """Up to the bracket of a list of calls."""
        before, bracket, after = self._held.partition("[")
        if before.strip():
            parts.append(self._begun)
            self._state = self._read_text
        elif bracket:
            self._begun += before + bracket
            self._held = after
            self._start()
        else:
            return False
        return True

    def _start(self) -> None:
        self._braces, self._scanned = _Braces(), 0
        self._state = self._read_head

    def _read_head(self, parts: list[Part]) -> bool:
        if head := self._format.head.match(self._held):
            if head["name"] in self._names:
                parts.append(CallPiece(self._calls, name=head["name"]))
                self._held = self._held[head.end() :]
                self._braces = _Braces()
                self._state = self._read_arguments
                return True
        elif self._format.wrapped and self._held.lstrip()[:1] in ("", "{"):
            end = self._braces.end(self._held[self._scanned :])
            if end is None:
                self._scanned = len(self._held)
                return False
            end += self._scanned
            if whole := _whole_call(self._held[:end], self._names):  # its arguments come before its name, say
                parts.append(CallPiece(self._calls, whole[1], whole[0]))
                self._calls += 1
                self._held = "}" + self._held[end:]
                self._state = self._read_tail
                return True
        elif not self._format.wrapped and _HEAD_SO_FAR.fullmatch(self._held):
            return False
        parts.append(self._begun)
        self._state = self._read_text if self._format.opening else self._read_plain
        return True

    def _read_arguments(self, parts: list[Part]) -> bool:
        end = self._braces.end(self._held)
        if piece := self._held[:end]:
            parts.append(CallPiece(self._calls, piece))
        self._held = self._held[len(piece) :]
        if end is None:
            return False
        self._calls += 1
        self._state = self._read_tail
        return True

    def _read_tail(self, parts: list[Part]) -> bool:
        """What closes a call. Some models leave it out."""
        rest = self._held
        if self._format.wrapped:
            closed = rest.find("}")
            if closed < 0:
                return False
            rest = rest[closed + 1 :]
        closing = self._format.closing.strip()
        if self._format.listed:
            after = rest.lstrip()
            if not after:
                return False
            if after[0] == ",":
                self._begun, self._held = ",", after[1:]
                self._start()
                return True
            rest = after.removeprefix("]")
        elif closing:
            after = rest.lstrip()
            if closing.startswith(after) and after != closing:
                return False
            rest = after.removeprefix(closing)
        elif not self._format.opening:
            after = rest.lstrip(" \n;")
            if not after:
                return False
            self._held = after
            if after[0] == "{":
                self._start()
            else:
                self._state = self._read_plain
            return True
        self._held = rest
        self._state = self._read_text
        return True


class _Braces:
    """Finds where a JSON object or list ends, in a text that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str) -> int | None:
        """Takes the next piece; returns where in it the end is, if it is there."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None


def _whole_call(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of an object that is a call, in whatever order they come."""
    try:
        call = json.loads(text)
        arguments = call.get("arguments", call.get("parameters"))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if isinstance(arguments, dict) and call.get("name") in names:
            return call["name"], json.dumps(arguments, ensure_ascii=False)
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    return None
