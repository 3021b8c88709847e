"""What an answer is held to, in llguidance's dialect of Lark: one form for all kinds of grammars and both engines."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ggserve.generation import Grammar
from ggserve.grammar.citations import citation_lark
from ggserve.grammar.references import endless_reference

HEAD = "%llguidance {}\n"
# What must come next is not worked out ahead: a user's regular expressions may force a million characters.
UNFORCED_HEAD = '%llguidance {"no_forcing": true}\n'

# JSON as most models write it. `oneOf` is taken as `anyOf`: an answer fits one of the schemas, and may fit others too.
_STYLE = {"coerce_one_of": True, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANNOTATIONS = frozenset(["title", "description", "examples", "example", "default", "$comment"])
_MAPS_OF_SCHEMAS = frozenset(["properties", "patternProperties", "$defs", "definitions"])
_SCHEMAS = frozenset(["items", "prefixItems", "additionalProperties", "allOf", "anyOf", "oneOf"])
_JOINED = frozenset(["properties", "allOf", "anyOf", "oneOf", "$ref", "if"])
_OTHER_PROPERTIES = frozenset(["additionalProperties", "patternProperties", "unevaluatedProperties"])
_LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9]")
_REGEX_PARTS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:,\d*)?\}|.", re.DOTALL)
_LITERALS = re.compile(r'"(?:\\.|[^"\\])*"|//.*|#.*|/(?:\\.|[^/\\\n])+/')  # of Lark, and its comments
_MAX_REGEX = 10_000  # characters, repetitions counted; a million of them take a second to follow
_MAX_GBNF = 32_768  # characters; and rules: the time to convert it grows with their square
_MAX_GBNF_RULES = 128


def lark(grammar: Grammar) -> str:
    """The grammar in Lark, which may still be wrong. Raises ValueError or TypeError where it cannot be written so."""
    from llguidance import regex_to_lark  # here, since most servers never get a grammar, and it takes time to start
    from llguidance.gbnf_to_lark import gbnf_to_lark

    text = grammar.text
    match grammar.kind:
        case "json_schema":
            return f"{HEAD}start: {json_rule(orjson.loads(text))}"
        case "choice":
            choices = orjson.loads(text)
            if not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
                raise ValueError("it is not a list of texts")
            return f"{HEAD}start: {' | '.join(map(literal, choices))}"
        case "regex":
            _check_length(text)
            return f"{HEAD}start: /{regex_to_lark(_unanchored(text))}/"
        case "gbnf":
            if len(text) > _MAX_GBNF or text.count("::=") > _MAX_GBNF_RULES:
                raise ValueError(f"it may have {_MAX_GBNF} characters and {_MAX_GBNF_RULES} rules")
            try:
                return UNFORCED_HEAD + _without_head(gbnf_to_lark(text))
            except Exception as error:  # it raises this very class
                raise ValueError(str(error)) from error
        case "lark":
            if "<[" in _LITERALS.sub("", text):
                raise ValueError("<[...]> names tokens by their ids, which mean nothing here: name texts")
            return UNFORCED_HEAD + _without_head(text)
        case "calls":
            return HEAD + text
        case "citations":
            return citation_lark(grammar)


def with_ends(text: str, end_ids: Iterable[int]) -> str:
    """Lark of the same answers, which one of these tokens may end. Where rules refer to `start` it stays as it is."""
    ids = ",".join(map(str, sorted(end_ids)))
    if not ids or len(re.findall(r"\bstart\b", text)) != 1:
        return text
    wrapped = re.sub(r"(?m)^start(?=\s*:)", "whole_answer", text)
    return f"{wrapped}\nstart: whole_answer (<[{ids}]>)?\n" if wrapped != text else text


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """JSON of a schema, as a part of a rule.

    Where the schema has `properties` and says nothing of others there are none: a small model would add some without
    end. Not so in a schema that joins others, whose properties are not all in one place. `lenient`: what an answer
    cannot be held to is left out. Raises ValueError or TypeError.
    """
    if (reference := endless_reference(schema)) is not None:
        raise ValueError(f"{reference} requires itself without end")
    stripped = _stripped(schema, closes=not _joins(schema), lenient=lenient)
    style = {**_STYLE, "lenient": True} if lenient else _STYLE
    return f"%json {orjson.dumps({'x-guidance': style, **stripped}).decode()}"


def _unanchored(regex: str) -> str:
    """A regular expression that the whole answer fits, without the anchors that say so."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\$\Z", r"\1", regex.removeprefix("^"))


def _without_head(text: str) -> str:
    return re.sub(r"^\s*%llguidance\b.*", "", text)


def _check_length(regex: str) -> None:
    """Raises ValueError where a regular expression, repetitions counted, is too long."""
    groups = [[0, 0]]  # that are open: the longest alternative so far, and the one that is being read
    last = 0  # length of the last part
    for part in _REGEX_PARTS.finditer(regex):
        if part["least"]:
            more = last * (min(int(part["least"][:9]), _MAX_REGEX + 1) - 1)
            groups[-1][1] += more
            last += more
        elif part[0] == "(":
            groups.append([0, 0])
        elif part[0] == "|":
            groups[-1] = [max(groups[-1]), 0]
        elif part[0] == ")" and len(groups) > 1:
            last = max(groups.pop())
            groups[-1][1] += last
        else:
            last = 1
            groups[-1][1] += 1
        if groups[-1][1] > _MAX_REGEX:
            raise ValueError(f"it is longer than {_MAX_REGEX} characters, repetitions counted")


def _stripped(schema: Any, *, closes: bool, lenient: bool) -> Any:
    """The schema without annotations; with `closes` it says that there are no other properties than those it has."""
    if isinstance(schema, list):
        return [_stripped(inner, closes=closes, lenient=lenient) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    stripped: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
            stripped[key] = {name: _stripped(inner, closes=closes, lenient=lenient) for name, inner in value.items()}
        elif key in _SCHEMAS:
            stripped[key] = _stripped(value, closes=closes, lenient=lenient)
        elif key == "pattern" and isinstance(value, str):
            _check_length(value)
            if not (lenient and _LOOKS_AROUND.search(value)):
                stripped[key] = value
        elif key not in _ANNOTATIONS:
            stripped[key] = value
    if closes and isinstance(names := schema.get("properties"), dict) and not _OTHER_PROPERTIES & schema.keys():
        required, least = schema.get("required", []), schema.get("minProperties", 0)
        if all(name in names for name in required) and least <= len(names):
            stripped["additionalProperties"] = False
    return stripped


def _joins(value: Any) -> bool:
    """Whether somewhere several schemas hold together."""
    if isinstance(value, list):
        return any(map(_joins, value))
    if not isinstance(value, dict):
        return False
    together = value.get("allOf")
    several = isinstance(together, list) and len(together) > 1
    return several or len(_JOINED & value.keys()) > 1 or any(map(_joins, value.values()))
