"""Random JSON schemas of JSONSchemaBench's kinds (functions, Kubernetes' objects, events, settings files).

Lengths are bounded, so that a random answer ends. Number i is always the same.
"""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_NAMES = [
    "name",
    "id",
    "kind",
    "apiVersion",
    "labels",
    "items",
    "e-mail",
    "über",
    "a b",
    "$key",
    'q"uote',
    "status.code",
]
_PATTERNS = [r"^[a-z]{2,6}$", r"^v\d{1,2}\.\d{1,2}$", r"^(GET|PUT|POST)$", r"^#[0-9a-fA-F]{6}$", r"^[^\s/]{1,5}$"]
_FORMATS = ["date", "time", "date-time", "uuid", "ipv4"]


def schema(number: int) -> Schema:
    """An object of a few properties."""
    draw = random.Random(number)
    if number % 10 == 9:
        return _with_definitions(draw)
    return _object(draw, 2)


def _string(draw: random.Random, depth: int) -> Schema:
    least = draw.choice([0, 0, 1, 3])
    return draw.choice(
        [
            {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 8)},
            {"type": "string", "pattern": draw.choice(_PATTERNS)},
            {"type": "string", "format": draw.choice(_FORMATS)},
            {"enum": draw.sample(["on", "off", "it's", 'a "b"', "ü", "\n", "snow ☃"], 3)},
            {"const": draw.choice(["", "fixed", "back\\slash"])},
        ]
    )


def _number(draw: random.Random, depth: int) -> Schema:
    low = draw.randint(-50, 50)
    return draw.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 500)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 7},
            {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
            {"type": "number", "minimum": low, "maximum": low + 1},
            {"enum": [1, 2.5, -3]},
        ]
    )


def _plain(draw: random.Random, depth: int) -> Schema:
    return draw.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["boolean", "null"]},
            {"enum": [None, True, 0, "x"]},
            {"const": {"a": [1, "b"]}},
        ]
    )


def _array(draw: random.Random, depth: int) -> Schema:
    least = draw.randint(0, 2)
    array: Schema = {"type": "array", "items": _any(draw, depth - 1), "minItems": least, "maxItems": least + 2}
    if draw.random() < 0.3:
        array["prefixItems"] = [_any(draw, 0) for _ in range(draw.randint(1, 2))]
    return array


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(_NAMES, draw.randint(1, 4))
    schema: Schema = {
        "type": "object",
        "properties": {name: {"description": "Of no use.", **_any(draw, depth - 1)} for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
    }
    if draw.random() < 0.5:
        schema["additionalProperties"] = False
    return schema


def _map(draw: random.Random, depth: int) -> Schema:
    """Any keys of a pattern, as labels have them; a few are wanted."""
    return {
        "type": "object",
        "properties": {"app": _string(draw, 0)},
        "required": ["app"],
        "patternProperties": {"^x-[a-z]{1,3}$": _plain(draw, 0)},
        "additionalProperties": False,
    }


def _either(draw: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(draw, depth - 1), _any(draw, 0), {"type": "null"}]}


def _any(draw: random.Random, depth: int) -> Schema:
    flat: list[Callable[[random.Random, int], Schema]] = [_string, _number, _plain]
    deep = [_array, _object, _either, _map]
    return draw.choice(flat + deep * 2 if depth > 0 else flat)(draw, depth)


def _with_definitions(draw: random.Random) -> Schema:
    """A tree, whose nodes are of the same definition."""
    node = {
        "type": "object",
        "properties": {
            "value": _any(draw, 1),
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"node": node},
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
    }
