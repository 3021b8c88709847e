"""Find recursive references in a JSON schema that no finite JSON can satisfy. Does not check anything else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

_MOST_LOOKS = 100_000  # takes about a second
_NESTED = ("object", "array")  # types whose values contain values


def endless_reference(schema: Mapping[str, Any]) -> str | None:
    """Return a `$ref` of the schema that no finite JSON can satisfy, or None. Raises ValueError if there are too many
    references to check."""
    targets: dict[str, Any] = {}
    unseen: list[Any] = [schema]
    while unseen:
        for reference in _references(unseen.pop()):
            if reference not in targets:
                targets[reference] = _target(schema, reference)
                unseen.append(targets[reference])
    search = _Search(targets)
    order = list(targets)
    while any([search.finds(each) for each in order]):  # noqa: C419  # check all of them, in alternating order
        order.reverse()
    return next((each for each in targets if each not in search.ends), None)


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
    """Return the schema that a reference points to in this document, or True, which allows everything, if it is
    unknown."""
    if reference == "#":
        return schema
    if not reference.startswith("#/"):
        return True
    found = schema
    for part in unquote(reference[2:]).split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return True if found is None else found


class _Search:
    """Finds the references that finite JSON can satisfy. Each set of schemas is checked once, and again only when more
    references are known."""

    def __init__(self, targets: Mapping[str, Any]) -> None:
        self.ends: set[str] = set()
        self._targets = targets
        self._looked = 0
        self._known: dict[
            frozenset[int], int | None
        ] = {}  # by schema ids: None if finite, else the number of references known at the last check

    def finds(self, reference: str) -> bool:
        """Return whether finite JSON can satisfy a reference for which this was not known."""
        if reference in self.ends or not self._end([self._targets[reference]]):
            return False
        self.ends.add(reference)
        return True

    def _end(self, schemas: Sequence[Any]) -> bool:
        """Return whether finite JSON can satisfy all of these schemas, given the references that are known to be
        finite."""
        parts = self._parts(schemas)
        key = frozenset(map(id, parts))
        known = self._known.get(key, -1)
        if known is None or known == len(self.ends):
            return known is None
        self._known[key] = len(self.ends)
        self._looked += 1
        if self._looked > _MOST_LOOKS:
            raise ValueError("it has too many references")
        if any(isinstance(part.get("$ref"), str) and part["$ref"] not in self.ends for part in parts):
            return False
        several = [options for part in parts for key in ("anyOf", "oneOf") if (options := _list(part, key))]
        if not self._join(parts) or not all(
            any(self._end([option]) and self._join([*parts, *self._parts([option])]) for option in options)
            for options in several
        ):
            return False
        self._known[key] = None
        return True

    def _parts(self, schemas: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the schemas that apply together: these, those in their `allOf`, and those they refer to."""
        parts: list[dict[str, Any]] = []
        followed: set[str] = set()
        unseen = list(schemas)
        while unseen:
            if isinstance(part := unseen.pop(), dict):
                parts.append(part)
                unseen += _list(part, "allOf")
                if isinstance(reference := part.get("$ref"), str) and reference not in followed:
                    followed.add(reference)
                    unseen.append(self._targets[reference])
        return parts

    def _join(self, parts: list[dict[str, Any]]) -> bool:
        """Return whether finite JSON can satisfy all of them, ignoring their alternatives."""
        allowed = [set(_types(part)) for part in parts if "type" in part]
        types = set.intersection(*allowed) if allowed else {None}
        if any("enum" in part or "const" in part for part in parts) or not types or types - {*_NESTED}:
            return True
        return ("object" in types and self._object(parts)) or ("array" in types and self._array(parts))

    def _object(self, parts: list[dict[str, Any]]) -> bool:
        required = {name for part in parts for name in _list(part, "required") if isinstance(name, str)}
        named = [part["properties"] for part in parts if isinstance(part.get("properties"), dict)]
        return all(self._end([properties[name] for properties in named if name in properties]) for name in required)

    def _array(self, parts: list[dict[str, Any]]) -> bool:
        least = max(number if isinstance(number := part.get("minItems"), int) else 0 for part in parts)
        for part in parts:
            first = _list(part, "prefixItems")
            needed = [*first[:least], *([part.get("items", True)] if least > len(first) else [])]
            if not all(self._end([inner]) for inner in needed):
                return False
        return True


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema["type"]
    return [str(each) for each in (types if isinstance(types, list) else [types])]


def _list(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
