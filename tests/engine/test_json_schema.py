"""Which JSON schemas an answer can be held to."""

import json

import pytest

from engine.errors import InvalidRequest
from engine.json_schema import MAX_BYTES, checked_schema


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ({"type": "wat"}, "wat"),
        ({"type": 5}, "type"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "https://localhost/schema.json"}, "localhost"),
        ({"type": "string", "pattern": "^(a$"}, "unclosed group"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "unsatisfiable"),
        ({"type": "number", "minimum": 10**40}, "64-bit"),
        ({"not": {"type": "string"}}, "not"),
        (json.loads("[" * 400 + "]" * 400), "Recursion"),
        ({"enum": ["a" * MAX_BYTES]}, "bytes"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(inner, reason: str):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        checked_schema({"type": "object", "properties": {"a": inner}, "required": ["a"]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
        {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10},
    ],
)
def test_what_can_be_followed_stays_as_it_is(schema):
    assert checked_schema(schema).items() >= schema.items()
