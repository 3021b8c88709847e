"""Whether a JSON schema that refers to itself has answers of finite length. What else is wrong with it others say."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_NESTED = ("object", "array")  # types whose values hold others


def endless_reference(schema: Mapping[str, Any]) -> str | None:
    """A `$ref` of the schema that no finite JSON fits, None if there is none."""
    targets: dict[str, Any] = {}
    unseen: list[Any] = [schema]
    while unseen:
        for reference in _references(unseen.pop()):
            if reference not in targets:
                targets[reference] = _target(schema, reference)
                unseen.append(targets[reference])
    ends: set[str] = set()
    while more := {each for each, target in targets.items() if each not in ends and _ends(target, ends, targets)}:
        ends |= more
    return next((each for each in targets if each not in ends), None)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner)
    elif isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for key, inner in value.items():
            if key not in ("$defs", "definitions", "enum", "const", "default", "examples"):
                yield from _references(inner)


def _target(schema: Any, reference: str) -> Any:
    """What it refers to in this document; True, which everything fits, where that is not known."""
    if reference == "#":
        return schema
    if not reference.startswith("#/"):
        return True
    found = schema
    for part in unquote(reference[2:]).split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return True if found is None else found


def _ends(schema: Any, known: set[str], targets: Mapping[str, Any]) -> bool:
    """Whether finite JSON fits, where it does for these references and for no other."""
    parts = _parts(schema, targets)
    if any(isinstance(part.get("$ref"), str) and part["$ref"] not in known for part in parts):
        return False
    several = [options for part in parts for key in ("anyOf", "oneOf") if (options := _list(part, key))]
    return _join_ends(parts, known, targets) and all(
        any(
            _ends(option, known, targets) and _join_ends([*parts, *_parts(option, targets)], known, targets)
            for option in options
        )
        for options in several
    )


def _parts(schema: Any, targets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The schemas that hold together in one: itself, those of `allOf`, and what they refer to."""
    parts: list[dict[str, Any]] = []
    followed: set[str] = set()
    unseen = [schema]
    while unseen:
        if isinstance(part := unseen.pop(), dict):
            parts.append(part)
            unseen += _list(part, "allOf")
            if isinstance(reference := part.get("$ref"), str) and reference not in followed:
                followed.add(reference)
                unseen.append(targets[reference])
    return parts


def _join_ends(parts: list[dict[str, Any]], known: set[str], targets: Mapping[str, Any]) -> bool:
    """Whether finite JSON fits all of them, their alternatives left out."""
    allowed = [set(_types(part)) for part in parts if "type" in part]
    types = set.intersection(*allowed) if allowed else {None}
    if any("enum" in part or "const" in part for part in parts) or not types or types - {*_NESTED}:
        return True
    return ("object" in types and _object_ends(parts, known, targets)) or (
        "array" in types and _array_ends(parts, known, targets)
    )


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema["type"]
    return [str(each) for each in (types if isinstance(types, list) else [types])]


def _object_ends(parts: list[dict[str, Any]], known: set[str], targets: Mapping[str, Any]) -> bool:
    required = {name for part in parts for name in _list(part, "required") if isinstance(name, str)}
    named = [part["properties"] for part in parts if isinstance(part.get("properties"), dict)]
    return all(
        _ends({"allOf": [properties[name] for properties in named if name in properties]}, known, targets)
        for name in required
    )


def _array_ends(parts: list[dict[str, Any]], known: set[str], targets: Mapping[str, Any]) -> bool:
    least = max(number if isinstance(number := part.get("minItems"), int) else 0 for part in parts)
    for part in parts:
        first = _list(part, "prefixItems")
        needed = [*first[:least], *([part.get("items", True)] if least > len(first) else [])]
        if not all(_ends(inner, known, targets) for inner in needed):
            return False
    return True


def _list(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
