"""Values of arguments that are not JSON as a whole."""

import json

import pytest

from ggserve.chat.exceptions import gemma4
from ggserve.chat.values import typed

NO_JSON = [
    "NaN",
    "-Infinity",
    "nan",
    "inf",
    "1e999",
    "[NaN]",
    "1_000e999",
    "[" * 5000,
    "(" * 5000,
    "9" * 5000,
    "{1: b'x'}",
]


@pytest.mark.parametrize("text", NO_JSON, ids=range(len(NO_JSON)))
def test_what_json_cannot_say_stays_text(text: str):
    assert typed(text, set()) == text
    read = gemma4.arguments(f"a:{text}}}")
    json.dumps(read and read[0], allow_nan=False)


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("1", {"string"}, "1"),
        ("1", {"string", "integer"}, 1),
        ("true", {"string", "integer"}, "true"),
        ("{}", {"string", "null"}, "{}"),
        ("null", {"string", "null"}, None),
        ("True", set(), True),
        ("x", {"integer"}, "x"),
    ],
)
def test_a_value_is_of_the_schema_s_types(text: str, types: set[str], value: object):
    assert typed(text, types) == value
    assert type(typed(text, types)) is type(value)
