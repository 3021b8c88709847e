"""The leaves of a JSON text equal those that a JSON parser finds, and a schema's alternatives are its constants."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.grammar.leaves import alternatives, has_leaves, leaves

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


def resolved(value: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else sum(map(count, inner))


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_leaves_are_found_where_they_are(value: Any, indent: int | None, escaped: bool):
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    found = leaves(text)
    assert len(found) == count(value)
    for leaf in found:
        assert json.loads(text[leaf.start : leaf.end]) == leaf.value == resolved(value, leaf.pointer)


@given(JSON, st.integers(0, 100))
def test_a_text_that_is_cut_short_has_the_leaves_before(value: Any, length: int):
    text = json.dumps(value)
    assert [leaf.pointer for leaf in leaves(text[:length])] == [leaf.pointer for leaf in leaves(text)][
        : len(leaves(text[:length]))
    ]


@pytest.mark.parametrize(
    ("schema", "path", "expected"),
    [
        ({"type": "boolean"}, (), [True, False]),
        ({"enum": ["a", 1, None]}, (), ["a", 1, None]),
        ({"const": 5}, (), [5]),
        ({"type": ["boolean", "null"]}, (), [True, False, None]),
        ({"type": ["string", "null"]}, (), None),
        ({"type": "string"}, (), None),
        ({"properties": {"a": {"type": "boolean"}}}, ("a",), [True, False]),
        ({"type": "array", "items": {"enum": ["x"]}}, (3,), ["x"]),
        ({"prefixItems": [{"enum": [1]}], "items": {"type": "null"}}, (0,), [1]),
        ({"$defs": {"c/d": {"enum": ["x"]}}, "properties": {"a": {"$ref": "#/$defs/c~1d"}}}, ("a",), ["x"]),
        ({"anyOf": [{"enum": ["x"]}, {"type": "null"}]}, (), ["x", None]),
        ({"anyOf": [{"enum": ["x"]}, {"type": "integer"}]}, (), None),
        ({"$ref": "#"}, (), None),
        ({}, ("a", 0), None),
        ({"enum": [[1], 2]}, (), None),
    ],
)
def test_alternatives(schema: dict[str, Any], path: tuple[str | int, ...], expected: list[Any] | None):
    assert alternatives(schema, path) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "additionalProperties": False}, False),
        ({"type": "array", "maxItems": 0}, False),
        ({"type": "object"}, True),
        ({"properties": {"a": {}}}, True),
        ({"type": "string"}, True),
        ({}, True),
    ],
)
def test_schemas_without_values_are_told_apart(schema: dict[str, Any], expected: bool):
    assert has_leaves(schema) is expected
