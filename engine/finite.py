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
    while more := {each for each, target in targets.items() if each not in ends and _ends(target, ends)}:
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


def _ends(schema: Any, known: set[str]) -> bool:
    """Whether finite JSON fits, where it does for these references and for no other."""
    if not isinstance(schema, dict):
        return True
    if isinstance(reference := schema.get("$ref"), str) and reference not in known:
        return False
    if not all(_ends(inner, known) for inner in _list(schema, "allOf")):
        return False
    for key in ("anyOf", "oneOf"):
        several = _list(schema, key)
        if several and not any(_ends(inner, known) for inner in several):
            return False
    types = schema.get("type")
    types = types if isinstance(types, list) else [types]
    if "enum" in schema or "const" in schema or not types or any(each not in _NESTED for each in types):
        return True
    return ("object" in types and _object_ends(schema, known)) or ("array" in types and _array_ends(schema, known))


def _object_ends(schema: dict[str, Any], known: set[str]) -> bool:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return True
    required = [name for name in _list(schema, "required") if isinstance(name, str)]
    return all(_ends(properties.get(name, True), known) for name in required)


def _array_ends(schema: dict[str, Any], known: set[str]) -> bool:
    least = schema.get("minItems", 0)
    if not isinstance(least, int):
        return True
    first = _list(schema, "prefixItems")
    return all(_ends(inner, known) for inner in first[:least]) and (
        least <= len(first) or _ends(schema.get("items", True), known)
    )


def _list(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
