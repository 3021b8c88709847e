"""The leaves of a JSON text, and the values that a schema allows for each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from json.decoder import py_scanstring  # type: ignore[attr-defined]  # in the standard library, but without a type stub
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_SPACE = re.compile(r"[ \t\n\r]*")
_DEEPEST = 32  # maximum length of a chain of references


@dataclass(frozen=True)
class Leaf:
    """A value that is not an object or array, and its position in the text, in characters."""

    path: tuple[str | int, ...]
    value: Any
    start: int
    end: int

    @property
    def pointer(self) -> str:
        """Its JSON pointer (RFC 6901)."""
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.path)


def leaves(text: str) -> list[Leaf]:
    """Return the leaves of a JSON text in order; of a truncated text, the complete ones."""
    found: list[Leaf] = []
    with suppress(ValueError, IndexError, RecursionError, StopIteration):  # at the end of a truncated text
        _scan(text, _space(text, 0), (), found)
    return found


def _scan(text: str, start: int, path: tuple[str | int, ...], found: list[Leaf]) -> int:
    """Collect the leaves of the value at `start`. Return the position after it."""
    match text[start]:
        case "{" | "[" as opening:
            closing = "}" if opening == "{" else "]"
            end, index = _space(text, start + 1), 0
            while text[end] != closing:
                key: str | int = index
                if opening == "{":
                    key, end = py_scanstring(text, end + 1)
                    end = _space(text, text.index(":", end) + 1)
                end = _space(text, _scan(text, end, (*path, key), found))
                if text[end] == ",":
                    end = _space(text, end + 1)
                index += 1
            return end + 1
        case '"':
            value, end = py_scanstring(text, start + 1)
        case _ if number := _NUMBER.match(text, start):
            value, end = json.loads(number[0]), number.end()
        case _:
            word = next(word for word in _WORDS if text.startswith(word, start))
            value, end = _WORDS[word], start + len(word)
    found.append(Leaf(path, value, start, end))
    return end


def _space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    assert match is not None
    return match.end()


def alternatives(schema: Mapping[str, Any], path: Sequence[str | int]) -> list[Any] | None:
    """Return the values that a schema allows for the leaf at a path if they are constants, booleans or null, else
    None."""
    found: list[Any] = []
    for option in _at(schema, schema, tuple(path)):
        values = _values(option)
        if values is None:
            return None
        found += [value for value in values if not any(_same(value, one) for one in found)]
    return found or None


def has_leaves(schema: Mapping[str, Any]) -> bool:
    """Return whether an answer of the schema can contain a leaf."""
    return any(map(_has_leaves, _resolved(schema, schema)))


def _has_leaves(schema: Mapping[str, Any]) -> bool:
    if schema.get("type") == "array":
        return schema.get("maxItems") != 0 and schema.get("items") is not False
    if schema.get("type") == "object" or "properties" in schema:
        closed = not schema.get("additionalProperties", "properties" not in schema)
        return bool(schema.get("properties") or schema.get("patternProperties")) or not closed
    return True


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _at(schema: Any, root: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that a value at a path can have."""
    for option in _resolved(schema, root):
        if not path:
            yield option
            continue
        key, rest = path[0], path[1:]
        if isinstance(key, int):
            first = option.get("prefixItems", ())
            inner = first[key] if key < len(first) else option.get("items", {})
        else:
            inner = option.get("properties", {}).get(key, option.get("additionalProperties"))
            if inner is None and len(list(_resolved(schema, root))) > 1:
                continue  # the key belongs to another option
        yield from _at(inner, root, rest)


def _resolved(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that remain after resolving references and unions at the top: at least one."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        yield {}
        return
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        target: Any = root
        for part in reference[1:].split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        yield from _resolved(target, root, depth + 1)
        return
    union = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if isinstance(union, Sequence) and not isinstance(union, str) and ("allOf" not in schema or len(union) == 1):
        for option in union:
            yield from _resolved(option, root, depth + 1)
        return
    yield schema


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    if isinstance(values := schema.get("enum"), list):
        return None if any(isinstance(value, dict | list) for value in values) else values
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    finite: dict[Any, list[Any]] = {"boolean": [True, False], "null": [None]}
    return [value for kind in kinds for value in finite[kind]] if set(kinds) <= finite.keys() else None
