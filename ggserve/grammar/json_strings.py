"""Rules for JSON strings: with a length, a pattern or a format, or different from given names."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from ggserve.grammar.regexes import regex_rule
from ggserve.grammar.rules import (
    ANY,
    NOTHING,
    Characters,
    Lexeme,
    Literal,
    Ranges,
    Repeat,
    Rule,
    choice,
    repeated,
    sequence,
    without,
)

_ESCAPES = {ord(each): json.dumps(each)[1:-1] for each in '"\\\b\f\n\r\t'}
_PLAIN = without(ANY, ((0, 31), (34, 34), (92, 92), (127, 127)))
_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"(?:{_BYTE}\.){{3}}{_BYTE}",
    "ipv6": r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,5}}",
    "email": rf"[a-zA-Z0-9_+-]{{1,32}}(?:\.[a-zA-Z0-9_+-]{{1,16}}){{0,2}}@{_LABEL}(?:\.{_LABEL}){{1,3}}",
    "duration": r"P(?:\d{1,4}D(?:T\d{1,4}H)?|T\d{1,4}[HMS]|\d{1,4}W)",
    "uri": rf"https?://{_LABEL}(?:\.{_LABEL}){{0,5}}(?:/[a-zA-Z0-9._~-]{{0,40}}){{0,8}}",
}

JsonSchema = Mapping[str, Any]


def string(schema: JsonSchema) -> Rule:
    """Return the rule for a string as JSON text. Raises ValueError."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    pattern, form = schema.get("pattern"), schema.get("format")
    if pattern is None and form is None:
        return _quoted(repeated(_written(ANY), least, most))
    limits = [key for key in ("format", "minLength", "maxLength") if key in schema and (pattern or key != "format")]
    if limits:
        raise ValueError(f"{limits[0]} together with {'pattern' if pattern is not None else 'format'} is not supported")
    if pattern is not None:
        return string_with(pattern)
    if form not in _FORMATS:
        raise ValueError(f"the format {str(form)[:60]!r} is not supported")
    return _quoted(regex_rule(_FORMATS[form], _written))


def string_with(pattern: str) -> Rule:
    """Return the rule for a string that contains a match of a regular expression."""
    return _quoted(regex_rule(pattern, _written, anywhere=True))


def other_string(names: Collection[str]) -> Rule:
    """Return the rule for a string that is none of these names, as JSON text."""
    return _quoted(_other_rest([_constant_text(name) for name in names]))


def _constant_text(name: str) -> tuple[str, ...]:
    """Return a name as the characters of a JSON string; an escape sequence is one character."""
    return tuple(_ESCAPES.get(ord(character), character) for character in name)


def _other_rest(names: Collection[tuple[str, ...]]) -> Rule:
    """Return the rule for the rest of a string that must not equal one of these."""
    if not names:
        return Repeat(_written(ANY))
    following: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        if name:
            following.setdefault(name[0], []).append(name[1:])
    known = tuple(sorted((ord(each), ord(each)) for each in following if len(each) == 1))
    options: list[Rule] = [sequence(Characters(without(_PLAIN, known)), Repeat(_written(ANY)))]
    options += [
        sequence(Literal(escape), Repeat(_written(ANY))) for escape in _ESCAPES.values() if escape not in following
    ]
    options += [sequence(Literal(first), _other_rest(rest)) for first, rest in following.items()]
    return choice(options if () in names else [NOTHING, *options])


def _quoted(rule: Rule) -> Rule:
    return Lexeme(sequence(Literal('"'), rule, Literal('"')))


def _written(ranges: Ranges) -> Rule:
    """Return the rule for one of these characters, as written in a JSON string."""
    plain = without(ranges, without(ANY, _PLAIN))
    escaped = [_ESCAPES[code] for low, high in ranges for code in _ESCAPES if low <= code <= high]
    options: list[Rule] = [Characters(plain)] if plain else []
    options += [Literal(escape) for escape in escaped]
    if not options:
        raise ValueError("control characters are not supported")
    return choice(options)
