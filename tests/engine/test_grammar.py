"""What an answer can be held to."""

import json

import pytest

from engine.contract import Grammar
from engine.errors import InvalidRequest
from engine.grammar import MAX_BYTES, checked_lark, schema_grammar


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
        checked_lark(schema_grammar({"type": "object", "properties": {"a": inner}, "required": ["a"]}))
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
    lark = checked_lark(schema_grammar(schema))
    assert json.loads(lark.partition("%json")[2]).items() >= schema.items()


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", r"^[0-9]{3}/\d$"),
        Grammar("choice", json.dumps(["yes", "no", 'a "b"\n'])),
        Grammar("lark", 'start: "a" b\nb: /[x-z]+/'),
        Grammar("gbnf", 'root ::= item+\nitem ::= [a-z]+ "\\n"'),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_other_kinds_can_be_followed(grammar: Grammar):
    assert checked_lark(grammar).startswith("%llguidance")


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(a"),
        Grammar("regex", "(?=a)b"),
        Grammar("choice", "[]"),
        Grammar("choice", "[5]"),
        Grammar("choice", '"a"'),
        Grammar("lark", "start: nothing"),
        Grammar("lark", "%llguidance {}\nbegin: 'a'"),
        Grammar("gbnf", 'root ::= "a'),
        Grammar("gbnf", "root ::= nothing"),
    ],
    ids=lambda grammar: grammar.text,
)
def test_other_kinds_that_cannot_be_followed_are_refused(grammar: Grammar):
    with pytest.raises(InvalidRequest):
        checked_lark(grammar)
