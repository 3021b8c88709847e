"""Grammars in GBNF, which llama.cpp follows by itself: for vocabularies whose spaces it takes from llguidance.

llama.cpp tells llguidance what a token is by decoding it alone, and where its tokenizer puts a space before a text it
takes one away from what it decodes: " the" becomes "the". Its own grammars see the tokens as they are.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ggserve.grammar.lark import HEAD

_MOST_REPETITIONS = 2000  # llama.cpp's own limit
_MOST_NUMBERS = 256  # of a range whose numbers are written one by one
_ANY = {
    "value": "object | array | string | number | boolean | null",
    "object": r'"{" (string ": " value (", " string ": " value)*)? "}"',
    "array": r'"[" (value (", " value)*)? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" ["\\bfnrt]',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": r'integer ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_IGNORED = frozenset(["x-guidance", "$schema", "$id", "$defs", "definitions", "type", "additionalProperties"])
_KEYS = {  # that are followed, by type
    "object": frozenset(["properties", "required"]),
    "array": frozenset(["items", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
}
_OF_TYPES = {key: kind for kind, keys in _KEYS.items() for key in keys}
_PARTS = re.compile(r'(?P<text>"(?:\\.|[^"\\])*")|(?P<schema>%json )|(?P<name>[a-z_][a-z_0-9]*)|(?P<sign>[()|*+? ])')

Schema = Mapping[str, Any]


def gbnf(lark: str) -> str:
    """The grammar of a JSON schema, of choices or of calls, as `engine.lark` writes it. Raises ValueError."""
    if not lark.startswith(HEAD):
        raise ValueError("only JSON schemas, choices and calls are followed here")
    return "\n".join(f"{name} ::= {body}" for name, body in _Grammar(lark.removeprefix(HEAD)).rules.items())


class _Grammar:
    """GBNF's rules by name."""

    def __init__(self, lark: str) -> None:
        self.rules: dict[str, str] = {}
        self._schema: Schema = {}  # whose references are followed
        self._referred: dict[str, str] = {}
        for line in lark.splitlines():
            name, colon, body = line.partition(":")
            if not colon or not re.fullmatch("[a-z_][a-z_0-9]*", name):
                raise ValueError(f"{line[:60]!r} is not followed here")
            self.rules[_rule_name(name)] = self._body(body.strip())
        self.rules |= _ANY

    def _body(self, lark: str) -> str:
        parts, at = [], 0
        while at < len(lark):
            part = _PARTS.match(lark, at)
            if part is None:
                raise ValueError(f"{lark[at : at + 60]!r} is not followed here")
            at = part.end()
            if part["schema"]:
                self._schema, at = json.JSONDecoder().raw_decode(lark, at)
                self._referred = {}
                parts.append(self._named(self._schema))
            elif part["text"]:
                parts.append(_quoted(json.loads(part["text"])))
            else:
                parts.append(_rule_name(part["name"]) if part["name"] else part["sign"])
        return "".join(parts)

    def _rule(self, body: str) -> str:
        """The name of a new rule."""
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _value(self, schema: Any) -> str:
        """What a value of the schema may be."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, Mapping):
            raise ValueError(f"{json.dumps(schema)[:60]} is not followed here")
        keys = schema.keys() - _IGNORED
        if "$ref" in keys:
            return self._reference(_only(schema, keys, "$ref"))
        if "const" in keys:
            return _literal(schema["const"])
        if "enum" in keys:
            return _either(map(_literal, schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if key in keys:
                return _either(self._named(inner) for inner in _only(schema, keys, key))
        if "allOf" in keys:
            joined = _only(schema, keys, "allOf")
            if len(joined) != 1:
                raise ValueError("allOf of several is not followed here")
            return self._value(joined[0])
        kinds = schema.get("type") or {_OF_TYPES[key] for key in keys if key in _OF_TYPES} or "value"
        return _either(self._rule(self._typed(kind, schema, keys)) for kind in _listed(kinds))

    def _typed(self, kind: str, schema: Schema, keys: Iterable[str]) -> str:
        followed, limited = _KEYS.get(kind, frozenset()), "integer" if kind == "number" else kind
        if unknown := sorted(key for key in keys if key not in followed and _OF_TYPES.get(key, limited) == limited):
            raise ValueError(f"{unknown[0]} is not followed here")
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                item = self._named(schema.get("items", True))
                return f'"[" {_repeated(item, schema.get("minItems", 0), schema.get("maxItems"))} "]"'
            case "string":
                least, most = schema.get("minLength", 0), schema.get("maxLength")
                return rf'"\"" char{_times(least, most)} "\""'
            case "integer":
                return _integer(schema)
        return kind

    def _object(self, schema: Schema) -> str:
        """Its properties in their order; those that need not be there may be left out."""
        properties, required = schema.get("properties", {}), schema.get("required", ())
        others = schema.get("additionalProperties", True)
        if any(name not in properties for name in required) or (properties and others is not False):
            raise ValueError("additionalProperties beside properties are not followed here")
        if not properties:
            pair = f'string ": " {self._named(others)}' if others is not False else None
            return f'"{{" {_repeated(self._rule(pair), 0, None)} "}}"' if pair else '"{}"'
        begun, empty = '""', '""'  # what may follow a property that is written, and where none is yet
        for name, inner in reversed(properties.items()):
            pair = self._rule(f"{_quoted(json.dumps(name, ensure_ascii=False))} {_quoted(': ')} {self._named(inner)}")
            after = self._rule(begun)
            if name in required:
                begun, empty = f'", " {pair} {after}', f"{pair} {after}"
            else:
                begun, empty = f'(", " {pair})? {after}', f"{pair} {after} | {self._rule(empty)}"
        return f'"{{" {self._rule(empty)} "}}"'

    def _named(self, schema: Any) -> str:
        return self._rule(self._value(schema))

    def _reference(self, pointer: str) -> str:
        """A rule that may refer to itself."""
        if pointer not in self._referred:
            found: Any = self._schema
            for part in pointer.removeprefix("#").split("/")[1:]:
                found = found[part.replace("~1", "/").replace("~0", "~")]
            name = self._referred[pointer] = self._rule("")
            self.rules[name] = self._value(found)
        return self._referred[pointer]


def _only(schema: Schema, keys: Iterable[str], key: str) -> Any:
    if others := sorted(set(keys) - {key}):
        raise ValueError(f"{others[0]} beside {key} is not followed here")
    return schema[key]


def _listed(kinds: Any) -> list[str]:
    return [kinds] if isinstance(kinds, str) else sorted(kinds)


def _either(bodies: Iterable[str]) -> str:
    return " | ".join(bodies)


def _literal(value: Any) -> str:
    return _quoted(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def _quoted(text: str) -> str:
    """A text as GBNF writes it."""
    escaped = (f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(escaped)}"' if text else '""'


def _times(least: int, most: int | None) -> str:
    if max(least, most or 0) > _MOST_REPETITIONS:
        raise ValueError(f"more than {_MOST_REPETITIONS} repetitions are not followed here")
    return f"{{{least},{'' if most is None else most}}}"


def _repeated(item: str, least: int, most: int | None) -> str:
    """Items with commas between them."""
    if most == 0:
        return '""'
    many = f'{item} (", " {item}){_times(max(least - 1, 0), None if most is None else most - 1)}'
    return many if least else f"({many})?"


def _integer(schema: Schema) -> str:
    low = max(
        (schema[key] + more for key, more in (("minimum", 0), ("exclusiveMinimum", 1)) if key in schema), default=None
    )
    high = min(
        (schema[key] - less for key, less in (("maximum", 0), ("exclusiveMaximum", 1)) if key in schema), default=None
    )
    if low is not None and high is not None and high - low < _MOST_NUMBERS:
        return _either(_quoted(str(number)) for number in range(int(-(-low // 1)), int(high // 1) + 1))
    if high is None and low in (None, 0, 1):
        return {None: "integer", 0: '"0" | [1-9] [0-9]{0,15}', 1: "[1-9] [0-9]{0,15}"}[low]
    raise ValueError(f"numbers from {low} to {high} are not followed here")


def _rule_name(lark: str) -> str:
    return "root" if lark == "start" else f"l-{lark.replace('_', '-')}"
