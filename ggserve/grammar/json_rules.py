"""Translate JSON schemas into rules, for grammar formats without JSON support, and for schemas that some versions of
llguidance misread.

JSON is written in the form that `schemas` requires of llguidance: `{"a": 1, "b": [2, 3]}`, properties in the schema's
order. An answer that matches the rules is valid under the schema. A schema that rules cannot express raises a
ValueError that names the keyword.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import orjson

from ggserve.grammar.json_strings import JsonSchema, other_string, string, string_with
from ggserve.grammar.numbers import INTEGER, NUMBER, Bound, decimals, integers
from ggserve.grammar.rules import (
    NOTHING,
    Lexeme,
    Literal,
    Reference,
    Repeat,
    Rule,
    Schema,
    choice,
    in_order,
    optional,
    repeated,
    sequence,
)

_MOST_NUMBERS = 256  # multiples that are listed one by one
_IGNORED = frozenset(["x-guidance", "$schema", "$id", "$defs", "definitions", "type"])
_KEYS = {  # supported keywords, by type
    "object": frozenset(
        ["properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"]
    ),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
}
_KEYS["number"] = _KEYS["integer"]
_OF_TYPES = {key: kind for kind, keys in _KEYS.items() for key in keys if kind != "integer"}
_ALL_TYPES = ("object", "array", "string", "number", "boolean", "null")


def json_rules(
    schema: JsonSchema, prefix: str, keep: Callable[[JsonSchema], bool] = lambda schema: False
) -> tuple[Rule, dict[str, Rule]]:
    """Return the rule for a schema's JSON, and the rules that it refers to, whose names start with `prefix`. Parts of
    the schema that `keep` accepts stay `Schema`. Raises ValueError."""
    translator = _Translator(schema, prefix, keep)
    try:
        return translator.value(schema), translator.named
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the schema is invalid: {error}") from error


class _Translator:
    def __init__(self, schema: JsonSchema, prefix: str, keep: Callable[[JsonSchema], bool]) -> None:
        self.named: dict[str, Rule] = {}
        self._root = schema
        self._prefix = prefix
        self._keep = keep
        self._referred: dict[str, Reference] = {}

    def value(self, schema: Any) -> Rule:
        """Return the rule for JSON that matches the schema."""
        if schema is True or schema == {}:
            return self._any("value")
        if not isinstance(schema, Mapping):
            raise ValueError(f"{json.dumps(schema)[:60]} is not supported")
        if self._keep(schema):
            return Schema(orjson.dumps(schema).decode())
        keys = schema.keys() - _IGNORED
        if "$ref" in keys:
            return self._reference(_only(schema, keys, "$ref"))
        if "const" in keys:
            return self._constants([_only(schema, keys, "const")], schema)
        if "enum" in keys:
            return self._constants(_only(schema, keys, "enum"), schema)
        for key in ("anyOf", "oneOf"):
            if key in keys:
                return choice(self.value(inner) for inner in _only(schema, keys, key))
        if "allOf" in keys:
            parts = _only(schema, keys, "allOf")
            if len(parts) != 1:
                raise ValueError("allOf with several schemas is not supported")
            return self.value(parts[0])
        types = schema.get("type")
        if types is None:  # a keyword restricts only its own type
            types = [_OF_TYPES[key] for key in keys if key in _OF_TYPES] or _ALL_TYPES
        listed = [types] if isinstance(types, str) else list(types)
        return choice(self._typed(kind, schema, keys) for kind in dict.fromkeys(listed))

    def _typed(self, kind: str, schema: JsonSchema, keys: Set[str]) -> Rule:
        followed = _KEYS.get(kind, frozenset())
        counts_for = "number" if kind == "integer" else kind
        if unknown := sorted(key for key in keys - followed if _OF_TYPES.get(key, counts_for) == counts_for):
            raise ValueError(f"{unknown[0]} is not supported")
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return string(schema)
            case "integer" | "number":
                return _number(kind, schema)
            case "boolean" | "null":
                return self._any(kind)
        raise ValueError(f"{kind!r} is not a JSON type")

    def _any(self, kind: str) -> Reference | Rule:
        """Return the rule for any JSON value, or for any value of a type."""
        match kind:
            case "boolean":
                return choice([Literal("true"), Literal("false")])
            case "null":
                return Literal("null")
        name = f"{self._prefix}_any"
        if name not in self.named:
            self.named[name] = NOTHING
            value = Reference(name)
            pair = sequence(string({}), Literal(": "), value)
            options = [_braces(_listed(pair, 0, None)), _brackets(_listed(value, 0, None)), string({}), Lexeme(NUMBER)]
            self.named[name] = choice([*options, self._any("boolean"), self._any("null")])
        return Reference(name)

    def _constants(self, values: Iterable[Any], schema: JsonSchema) -> Rule:
        types = schema.get("type")
        allowed = None if types is None else [types] if isinstance(types, str) else types
        fitting = [value for value in values if allowed is None or any(_has_type(value, each) for each in allowed)]
        if not fitting:
            raise ValueError("no value of enum has the type")
        return choice(map(_constant, fitting))

    def _array(self, schema: JsonSchema) -> Rule:
        first = schema.get("prefixItems", [])
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        others = schema.get("items", True)
        if not first:
            return _brackets(_listed(self._named(self.value(others)), least, most) if others is not False else NOTHING)
        after: Rule = NOTHING
        if others is not False and (most is None or most > len(first)):
            further = None if most is None else most - len(first)
            after = repeated(sequence(Literal(", "), self.value(others)), max(least - len(first), 0), further)
        for number in range(min(len(first), most if most is not None else len(first)) - 1, -1, -1):
            item = sequence(Literal(", ") if number else NOTHING, self.value(first[number]), after)
            after = item if number < least else optional(item)
        return _brackets(after)

    def _object(self, schema: JsonSchema) -> Rule:
        """Return the rule for an object: its properties in order, then additional ones."""
        others = schema.get("additionalProperties", True)
        properties = dict(schema.get("properties", {}))
        required = schema.get("required", [])
        for name in required:
            if name not in properties:
                if others is False or schema.get("patternProperties"):
                    raise ValueError(f"the required property {name!r} is not among properties")
                properties[name] = others
        pairs = [self._pair(name, inner) for name, inner in properties.items()]
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        pair = self._other_pair(schema, others, properties)
        other = None if pair is None else self._named(pair)
        if not pairs:
            return _braces(_listed(other, least, most) if other is not None else NOTHING)
        if least > len(required) or (most is not None and (other is not None or most < len(properties))):
            raise ValueError("minProperties and maxProperties together with properties are not supported")
        more = NOTHING if other is None else Repeat(sequence(Literal(", "), other))
        none = NOTHING if other is None else _listed(other, 0, None)
        listed = [(pair, name in required) for name, pair in zip(properties, pairs, strict=True)]
        return _braces(in_order(listed, Literal(", "), self._named, closing=more, empty=none))

    def _pair(self, name: str, inner: Any) -> Rule:
        return sequence(_constant(name), Literal(": "), self.value(inner))

    def _other_pair(self, schema: JsonSchema, others: Any, properties: Mapping[str, Any]) -> Rule | None:
        """Return the rule for an additional property, or None if there is none."""
        patterns = schema.get("patternProperties", {})
        if not patterns:
            if others is False:
                return None
            return sequence(other_string(properties), Literal(": "), self.value(others))
        if others is not False:
            raise ValueError("patternProperties together with additionalProperties are not supported")
        if len(patterns) > 1:
            raise ValueError("several patternProperties are not supported")
        for pattern in patterns:
            if any(re.search(pattern, name) for name in properties):
                raise ValueError(
                    f"patternProperties {pattern[:60]!r} is not supported because it also matches properties"
                )
        return choice(
            sequence(string_with(pattern), Literal(": "), self.value(inner)) for pattern, inner in patterns.items()
        )

    def _named(self, rule: Rule) -> Rule:
        """Return a reference to a rule that is used in several places."""
        if isinstance(rule, Literal | Reference) or rule == NOTHING:
            return rule
        name = f"{self._prefix}_{len(self.named)}"
        self.named[name] = rule
        return Reference(name)

    def _reference(self, pointer: str) -> Rule:
        """Return a reference to a rule that can be recursive."""
        if pointer not in self._referred:
            if pointer != "#" and not pointer.startswith("#/"):
                raise ValueError(f"$ref {pointer[:60]!r} is not supported")
            found: Any = self._root
            for part in unquote(pointer[2:]).split("/") if pointer != "#" else []:
                found = found[part.replace("~1", "/").replace("~0", "~")]
            name = f"{self._prefix}_{len(self.named)}"
            self.named[name] = NOTHING
            self._referred[pointer] = Reference(name)
            self.named[name] = self.value(found)
        return self._referred[pointer]


def _only(schema: JsonSchema, keys: Collection[str], key: str) -> Any:
    if others := sorted(set(keys) - {key}):
        raise ValueError(f"{others[0]} together with {key} is not supported")
    return schema[key]


def _has_type(value: Any, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            return not isinstance(value, bool) and isinstance(value, int | float) and value == math.floor(value)
        case "array":
            return isinstance(value, list)
    return isinstance(value, dict)


def _constant(value: Any) -> Rule:
    return Literal(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def _braces(rule: Rule) -> Rule:
    return sequence(Literal("{"), rule, Literal("}"))


def _brackets(rule: Rule) -> Rule:
    return sequence(Literal("["), rule, Literal("]"))


def _listed(item: Rule, least: int, most: int | None) -> Rule:
    """Return the rule for items separated by commas."""
    if most == 0:
        return NOTHING
    further = repeated(sequence(Literal(", "), item), max(least - 1, 0), None if most is None else most - 1)
    return sequence(item, further) if least else optional(sequence(item, further))


def _number(kind: str, schema: JsonSchema) -> Rule:
    least = _bound(schema, "minimum", "exclusiveMinimum", max)
    most = _bound(schema, "maximum", "exclusiveMaximum", min)
    if "multipleOf" in schema:
        return _multiples(kind, Decimal(repr(schema["multipleOf"])), least, most)
    if kind == "integer":
        return Lexeme(integers(_first_integer(least), _last_integer(most)) if least or most else INTEGER)
    return Lexeme(decimals(least, most) if least or most else NUMBER)


def _bound(schema: JsonSchema, closed: str, opened: str, tighter: Callable[..., tuple[Decimal, bool]]) -> Bound:
    bounds = [(Decimal(repr(schema[key])), key == opened) for key in (closed, opened) if key in schema]
    if len(bounds) == 2 and bounds[0][0] == bounds[1][0]:
        return bounds[1]
    return tighter(bounds) if bounds else None


def _first_integer(least: Bound) -> int | None:
    if least is None:
        return None
    number = math.ceil(least[0])
    return number + 1 if least[1] and number == least[0] else number


def _last_integer(most: Bound) -> int | None:
    if most is None:
        return None
    number = math.floor(most[0])
    return number - 1 if most[1] and number == most[0] else number


def _multiples(kind: str, step: Decimal, least: Bound, most: Bound) -> Rule:
    """Return the rule for the multiples between two bounds, listed one by one."""
    if least is None or most is None or step <= 0 or (most[0] - least[0]) / step >= _MOST_NUMBERS:
        raise ValueError("multipleOf is not supported without close bounds")
    numbers = [step * number for number in range(math.floor(least[0] / step), math.ceil(most[0] / step) + 1)]
    fitting = [
        number
        for number in numbers
        if (least[0] < number or (least[0] == number and not least[1]))
        and (number < most[0] or (number == most[0] and not most[1]))
        and (kind == "number" or number == math.floor(number))
    ]
    if not fitting:
        raise ValueError("no multiple lies between its bounds")
    return choice(Literal(f"{number.normalize():f}" if number else "0") for number in fitting)
