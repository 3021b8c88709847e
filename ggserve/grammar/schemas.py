"""Prepare a request's JSON schemas for structured output: without annotations, closed, and of bounded cost."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

from ggserve.grammar.references import endless_reference
from ggserve.grammar.rules import Schema

_ANNOTATIONS = frozenset(["title", "description", "examples", "example", "default", "$comment"])
_MAPS_OF_SCHEMAS = frozenset(["properties", "patternProperties", "$defs", "definitions"])
_SCHEMAS = frozenset(["items", "prefixItems", "additionalProperties", "allOf", "anyOf", "oneOf"])
_JOINED = frozenset(["properties", "allOf", "anyOf", "oneOf", "$ref", "if"])
_OTHER_PROPERTIES = frozenset(["additionalProperties", "patternProperties", "unevaluatedProperties"])
_LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9]")
_REGEX_PARTS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:,\d*)?\}|.", re.DOTALL)
_MAX_REGEX = 10_000  # characters, counting repetitions; a million take a second to match
_MAX_MULTIPLE = (
    10_000  # without leading and trailing zeros: the automaton of its multiples has at least this many states
)
_MAX_POWER = 1 << 16  # a power of two


def schema_rule(schema: Mapping[str, Any], *, lenient: bool = False) -> Schema:
    """Return the rule for a schema's JSON. Raises ValueError or TypeError.

    A schema with `properties` that does not mention additional ones forbids them: a small model would add them without
    end. A schema that combines others does not, because its properties are in several places. `lenient`: ignore
    unsupported keywords.
    """
    if (reference := endless_reference(schema)) is not None:
        raise ValueError(f"{reference} requires itself, so no finite answer exists")
    stripped = _stripped(schema, closes=not _combines_schemas(schema), lenient=lenient)
    return Schema(orjson.dumps(stripped).decode(), lenient)


def check_regex_length(regex: str) -> None:
    """Check the length of a regular expression, counting repetitions. Raises ValueError if it is too long."""
    groups = [[0, 0]]  # open groups: length of the longest alternative so far, and of the current one
    last = 0  # length of the last item
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
            raise ValueError(f"it is longer than {_MAX_REGEX} characters, counting repetitions")


def _stripped(schema: Any, *, closes: bool, lenient: bool) -> Any:
    """Return the schema without annotations. With `closes`, forbid additional properties unless it mentions them."""
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
            check_regex_length(value)
            if not (lenient and _LOOKS_AROUND.search(value)):
                stripped[key] = value
        elif key == "multipleOf":
            if _cheap_multiple(value):
                stripped[key] = value
            elif not lenient:
                raise ValueError(f"multipleOf {value!r} has too many digits; the limit is {_MAX_MULTIPLE}")
        elif key not in _ANNOTATIONS:
            stripped[key] = value
    if closes and isinstance(names := schema.get("properties"), dict) and not _OTHER_PROPERTIES & schema.keys():
        required, least = schema.get("required", []), schema.get("minProperties", 0)
        if all(name in names for name in required) and least <= len(names):
            stripped["additionalProperties"] = False
    return stripped


def _cheap_multiple(step: Any) -> bool:
    """Return whether the automaton of its multiples is small. Invalid steps are rejected elsewhere."""
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
        return True
    digits = int(f"{Decimal(repr(step)):f}".replace(".", "").strip("0"))
    return digits <= _MAX_MULTIPLE or (digits <= _MAX_POWER and digits.bit_count() == 1)


def _combines_schemas(value: Any) -> bool:
    """Return whether several schemas apply together anywhere in it."""
    if isinstance(value, list):
        return any(map(_combines_schemas, value))
    if not isinstance(value, dict):
        return False
    together = value.get("allOf")
    several = isinstance(together, list) and len(together) > 1
    return several or len(_JOINED & value.keys()) > 1 or any(map(_combines_schemas, value.values()))
