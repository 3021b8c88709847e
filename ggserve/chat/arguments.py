"""Reads the arguments of one tool call as they arrive, and returns them as pieces of JSON text."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ggserve.chat.exceptions import gemma4, minimax_m3
from ggserve.chat.format import ArgumentsFormat
from ggserve.chat.literals import MORE, Pattern, skip_space
from ggserve.chat.values import json_types, typed

_CDATA = "<![CDATA["


class ArgumentsReader(Protocol):
    """The arguments of one call."""

    def read(self, held: str, *, final: bool) -> tuple[str, int, bool]:
        """Return a piece of JSON, the number of characters of `held` that it used, and whether the arguments are
        complete. `final`: no more text will arrive."""
        ...


def arguments_reader(
    form: ArgumentsFormat, ends: Iterable[Pattern], schema: Mapping[str, Any] | None
) -> ArgumentsReader:
    """Return a reader for one call. `ends` come after the arguments; `schema` is the JSON schema of the function."""
    match form.syntax:
        case "json":
            return JsonReader()
        case "parameters":
            return _ParametersReader(form, list(ends), schema or {})
        case "gemma":
            return _WholeReader(gemma4.arguments, "}")
        case "minimax":
            return _WholeReader(lambda text: minimax_m3.arguments(text, schema or {}), minimax_m3.END)


class Braces:
    """Finds the end of a JSON object or list in a text that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str) -> int | None:
        """Take the next piece and return the place of the end in it, if it is there."""
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


class JsonReader:
    """One JSON object, passed on unchanged."""

    def __init__(self) -> None:
        self._braces = Braces()

    def read(self, held: str, *, final: bool) -> tuple[str, int, bool]:
        end = self._braces.end(held)
        return held[:end], len(held) if end is None else end, end is not None


class _WholeReader:
    """Arguments in a nested syntax, parsed when they may be complete: after `end` has arrived."""

    def __init__(self, parse: Callable[[str], tuple[dict[str, Any], int] | None], end: str) -> None:
        self._parse = parse
        self._end = end
        self._seen = 0

    def read(self, held: str, *, final: bool) -> tuple[str, int, bool]:
        begin, self._seen = max(0, self._seen - len(self._end)), len(held)
        if self._end in held[begin:] and (parsed := self._parse(held)):
            return json.dumps(parsed[0], ensure_ascii=False), parsed[1], True
        return ("", len(held), True) if final else ("", 0, False)


class _ParametersReader:
    """Parameters that each have a name."""

    def __init__(self, form: ArgumentsFormat, ends: list[Pattern], schema: Mapping[str, Any]) -> None:
        self._quote = form.quote
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, dict) else {}
        self._cdata = form.cdata
        self._open = Pattern(form.open)
        self._separator = form.close.strip() == "" and form.between.strip()
        self._after_keys = [
            (Pattern(literal), literal, kind)
            for literal, kind in ((form.after_key, "any"), (form.after_key_other, "other"))
            if literal is not None
        ]
        if form.after_key_other not in (None, form.after_key):
            self._after_keys[0] = (*self._after_keys[0][:2], "string")
        closing = Pattern(form.close)
        self._closing = [closing] if closing else [*([Pattern(form.between)] if form.between.strip() else []), *ends]
        self._trail = _leading_space(form.close or form.between)
        self._ends = ends
        self._state = "key"
        self._count = 0
        self._key = self._kind = self._lead = ""
        self._streams = self._begun = False

    def read(self, held: str, *, final: bool) -> tuple[str, int, bool]:
        json_text, taken = "", 0
        while True:
            piece, used, goes_on = getattr(self, f"_read_{self._state}")(held[taken:], final)
            json_text += piece
            taken += used
            if self._state == "end":
                return json_text, taken, True
            if not goes_on:
                return json_text, taken, False

    def _read_key(self, held: str, final: bool) -> tuple[str, int, bool]:
        """Read a name up to its value, or the end of the arguments."""
        at = skip_space(held)
        if self._separator and self._count and held.startswith(self._separator, at):
            at = skip_space(held, at + len(self._separator))
        if final and at == len(held):
            return self._end(at)
        if self._open:
            opened = self._open.match(held, at)
            if opened == MORE and not final:
                return "", 0, False
            if opened is None or opened == MORE:
                return self._end(at)
            at = opened
        elif any(end.match(held, at) not in (None, MORE) for end in self._ends):
            return self._end(at)
        found = min(
            (hit for pattern, literal, kind in self._after_keys if (hit := _hit(pattern, held, at, literal, kind))),
            default=None,
        )
        if found is None or found[1] == MORE:
            return self._end(len(held)) if final else ("", 0, False)
        start, end, literal, self._kind = found
        self._key = held[at:start].strip().strip("\"'")
        self._lead = _trailing_space(literal) if not self._quote else ""
        types = json_types(self._properties.get(self._key))
        self._streams = not self._quote and (self._kind == "string" or (self._kind == "any" and types == {"string"}))
        self._types, self._begun, self._state = types, False, "value"
        self._count += 1
        return f"{'{' if self._count == 1 else ', '}{json.dumps(self._key, ensure_ascii=False)}: ", end, True

    def _read_value(self, held: str, final: bool) -> tuple[str, int, bool]:
        start = 0
        if not self._begun:
            if self._lead.startswith(held) and held != self._lead and not final:
                return "", 0, False
            start = len(self._lead) if held.startswith(self._lead) else 0
        end, after = self._value_end(held, start)
        if end is None and not final:
            if not self._streams:
                return "", 0, False
            sure = len(held[start:after].rstrip()) + start
            opening = "" if self._begun else '"'
            self._begun = True
            return opening + _escaped(held[start:sure]), sure, False
        if end is None:
            end = after = len(held)
        text = held[start:end]
        if self._cdata and text.startswith(_CDATA) and text.endswith("]]>"):
            text = text[len(_CDATA) : -3]
        if self._trail and text.endswith(self._trail) and not self._quote:
            text = text[: -len(self._trail)]
        self._state = "key"
        if self._streams:
            return ("" if self._begun else '"') + _escaped(text) + '"', after, True
        return json.dumps(self._value(text), ensure_ascii=False), after, True

    def _value_end(self, held: str, start: int) -> tuple[int | None, int]:
        """Return where the value ends and the following literal begins; None and where it may begin, if undecided."""
        if self._quote:
            return self._literal_end(held, start)
        if self._cdata and not self._begun and _CDATA.startswith(held[start : start + len(_CDATA)]):
            end = held.find("]]>", start)
            if len(held) - start < len(_CDATA) or end < 0:
                return None, start
            start = end
        hits = [hit for pattern in self._closing if (hit := pattern.find(held, start))]
        if not hits:
            return None, len(held)
        begin, end = min(hits)
        if end == MORE:
            return None, begin
        return begin, end if self._closing[0].text and len(self._closing) == 1 else begin

    def _literal_end(self, held: str, start: int) -> tuple[int | None, int]:
        depth, quote, escaped = 0, "", False
        for at in range(start, len(held)):
            character = held[at]
            if quote:
                if escaped:
                    escaped = False
                elif character == "\\":
                    escaped = True
                elif character == quote:
                    quote = ""
            elif character in "\"'":
                quote = character
            elif character in "([{":
                depth += 1
            elif character in ")]}" and depth:
                depth -= 1
            elif depth == 0 and (character in ")]}" or character == self._separator):
                return at, at
        return None, len(held)

    def _value(self, text: str) -> Any:
        if self._quote:
            return typed(text.strip(), self._types, quoted=True)
        return text if self._kind == "string" else typed(text, self._types)

    def _end(self, at: int) -> tuple[str, int, bool]:
        self._state = "end"
        return "}" if self._count else "{}", at, True


def _hit(pattern: Pattern, held: str, at: int, literal: str, kind: str) -> tuple[int, int, str, str] | None:
    found = pattern.find(held, at)
    return (*found, literal, kind) if found else None


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _leading_space(literal: str) -> str:
    return literal[: len(literal) - len(literal.lstrip())]


def _trailing_space(literal: str) -> str:
    return literal[len(literal.rstrip()) :]
