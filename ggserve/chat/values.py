"""Reads a value of arguments that are not JSON as a whole: in JSON or Python syntax, or as raw text."""

import ast
import json
from contextlib import suppress
from typing import Any

_LONGEST_LITERAL = 100_000  # characters of a value in Python syntax
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def typed(text: str, types: set[str], *, quoted: bool = False) -> Any:
    """Return the value of a text, of one of these JSON types if possible. `quoted`: strings are in quotes."""
    if types == {"string"} and not quoted:
        return text
    read, value = _parsed(text.strip())
    fits = not types or isinstance(value, str) or any(type(value) in _JSON_TYPES.get(kind, ()) for kind in types)
    return value if read and (fits or "string" not in types) else text


def json_types(schema: Any) -> set[str]:
    """Return the JSON types that a schema allows; empty if it does not say."""
    if not isinstance(schema, dict):
        return set()
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {name for name in kind if isinstance(name, str)}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            inner = [json_types(part) for part in schema[word]]
            return set().union(*inner) if all(inner) else set()
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return {"string"}
    return set()


def _parsed(text: str) -> tuple[bool, Any]:
    """Parse a value in JSON or Python syntax."""
    readers = (json.loads, ast.literal_eval) if len(text) <= _LONGEST_LITERAL else (json.loads,)
    for read in readers:
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = read(text)
            json.dumps(value, allow_nan=False)
            return True, value
    return False, None
