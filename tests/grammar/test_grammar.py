"""Grammars constrain answers."""

import asyncio
import json
from dataclasses import replace

import pytest

from ggserve.errors import GenerationError, InvalidRequest
from ggserve.generation import Delta, Grammar, SamplingParams, schema_grammar
from ggserve.grammar.matcher import MAX_BYTES, Grammars, Matcher, byte_vocabulary
from ggserve.model.gguf_model import GGUFModel


@pytest.fixture(scope="module")
def grammars():
    grammars = Grammars(byte_vocabulary())
    yield grammars
    grammars.close()


def matcher(grammars: Grammars, grammar: Grammar) -> Matcher:
    return asyncio.run(grammars.matcher(grammar))[0]


def accepts(grammars: Grammars, grammar: Grammar, text: str) -> bool:
    answer = matcher(grammars, grammar)
    return answer.take_text(text) and answer.complete


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
        ({"properties": {str(number): {} for number in range(1500)}}, "too big"),
        ({"type": "string", "pattern": "((a{100}){100}){100}"}, "characters"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(grammars: Grammars, inner, reason: str):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        matcher(grammars, schema_grammar({"type": "object", "properties": {"a": inner}, "required": ["a"]}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
REQUIRES = {"type": "object", "required": ["next"]}
HAS = {"properties": {"next": {"$ref": "#/$defs/node"}}}
OR_NULL = {**NODE, "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"$ref": "#"},
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"node": NODE}, "type": "object", "properties": {"optional": {"$ref": "#/$defs/node"}}},
        {"$defs": {"node": {"anyOf": [NODE, {"$ref": "#/$defs/node"}]}}, "$ref": "#/$defs/node"},
        {"$defs": {"node": {"allOf": [REQUIRES, HAS]}}, "$ref": "#/$defs/node"},
        {"$defs": {"node": {**HAS, "allOf": [{"type": "object"}, {"required": ["next"]}]}}, "$ref": "#/$defs/node"},
        {"$defs": {"node": {"allOf": [REQUIRES, {"$ref": "#/$defs/has"}]}, "has": HAS}, "$ref": "#/$defs/node"},
        {"$defs": {"node": {**HAS, "anyOf": [REQUIRES]}}, "$ref": "#/$defs/node"},
        {"allOf": [{"type": "array", "minItems": 1}, {"items": {"$ref": "#"}}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "minProperties": 1},
        {"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["a"]},
    ],
)
def test_a_schema_that_requires_itself_without_end_is_refused(grammars: Grammars, schema):
    with pytest.raises(InvalidRequest, match=r"requires itself|never ends") as caught:
        matcher(grammars, schema_grammar(schema, "response_format"))
    assert caught.value.field == "response_format"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, '{"a": {}}'),
        ({"type": "array", "items": {"$ref": "#"}}, "[[], [[]]]"),
        ({"$defs": {"node": OR_NULL}, "$ref": "#/$defs/node"}, '{"next": {"next": null}}'),
        ({"$defs": {"node": {**NODE, "required": []}}, "$ref": "#/$defs/node"}, '{"next": {}}'),
        ({"$defs": {"a/b": {"type": "null"}}, "$ref": "#/$defs/a~1b"}, "null"),
        ({"$defs": {"node": NODE}, "type": "integer"}, "5"),
        ({"$defs": {"node": {"allOf": [{"type": "object"}, HAS]}}, "$ref": "#/$defs/node"}, '{"next": {}}'),
        ({"$defs": {"node": {**HAS, "anyOf": [REQUIRES, {"type": "null"}]}}, "$ref": "#/$defs/node"}, "null"),
    ],
)
def test_a_schema_that_refers_to_itself_and_can_end_is_followed(grammars: Grammars, schema, text):
    assert accepts(grammars, schema_grammar(schema), text)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(a"),
        Grammar("regex", "(?=a)b"),
        Grammar("choice", "[]"),
        Grammar("choice", "[5]"),
        Grammar("choice", '"a"'),
        Grammar("choice", "[" * 2000),
        Grammar("lark", "start: nothing"),
        Grammar("lark", "%llguidance {}\nbegin: 'a'"),
        Grammar("lark", "start: <|im_start|>"),
        Grammar("lark", "start: <[5]>"),  # llama.cpp's tokens are others than those that we follow it with
        Grammar("lark", 'start: "a" <[*]>'),
        Grammar("lark", "start: A\nA[stop=<[^5]>]: /b/"),
        Grammar("gbnf", "root ::= <[5]>"),  # may end llama.cpp where it reads such grammars itself
        Grammar("gbnf", 'root ::= "a" !<[99999]>*'),
        Grammar("gbnf", "root ::= !<think>* <|im_end|>"),
        Grammar("gbnf", 'root ::= "a'),
        Grammar("gbnf", "root ::= nothing"),
        Grammar("gbnf", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
        Grammar("gbnf", "\n".join(f'r{number} ::= "a"' for number in range(1000))),
    ],
    ids=lambda grammar: grammar.text[:20],
)
def test_other_kinds_that_cannot_be_followed_are_refused(grammars: Grammars, grammar: Grammar):
    with pytest.raises(InvalidRequest):
        matcher(grammars, grammar)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (Grammar("regex", r"^[0-9]{3}/\d$"), "123/4", "123/45"),
        (Grammar("regex", r"a\$"), "a$", "a"),
        (Grammar("choice", json.dumps(["yes", 'a "b"\n', "é"])), 'a "b"\n', "no"),
        (Grammar("lark", 'start: "a" b\nb: /[x-z]+/'), "axyz", "a"),
        (Grammar("lark", r'start: "<[5]>" /<\[\/6/ "\"<[7]>" // <[8]>'), '<[5]><[/6"<[7]>', "<[5]>"),
        (Grammar("gbnf", 'root ::= item+\nitem ::= [a-z]+ "\\n"'), "ab\nc\n", "ab"),
        (schema_grammar({}), '{"a": [1, null]}', "{"),
        (schema_grammar({"oneOf": [{"type": "integer"}, {"type": "string"}]}), '"a"', "1.5"),
        (
            schema_grammar({"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}),
            "[[], [[]]]",
            "[1]",
        ),
        (schema_grammar({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}), '"abc"', '"abcd"'),
    ],
    ids=lambda value: value.kind if isinstance(value, Grammar) else "",
)
def test_an_answer_is_one_of_the_grammar(grammars: Grammars, grammar: Grammar, good: str, bad: str):
    assert accepts(grammars, grammar, good)
    assert not accepts(grammars, grammar, bad)


def test_properties_that_are_not_named_come_only_where_the_schema_says_so(grammars: Grammars):
    inner = {"properties": {"b": {"type": "integer"}}}
    named = {"type": "object", "properties": {"a": inner, "c": {"anyOf": [inner, {"type": "null"}]}}}
    for other in ('{"x": 1}', '{"a": {"x": 1}}', '{"c": {"x": 1}}'):
        assert not accepts(grammars, schema_grammar(named), other)
    assert accepts(grammars, schema_grammar(named), '{"a": {"b": 1}, "c": {"b": 2}}')
    for more in (
        {**named, "additionalProperties": True},
        {**named, "patternProperties": {"^x$": {"type": "integer"}}},
        {**named, "required": ["x"]},
        {"allOf": [named, {"type": "object", "properties": {"x": {"type": "integer"}}}]},
        {"type": "object"},
    ):
        assert accepts(grammars, schema_grammar(more), '{"x": 1}')


def test_annotations_cost_nothing(grammars: Grammars):
    schema = {"properties": {"description": {"type": "integer", "description": "x" * MAX_BYTES, "examples": [1]}}}
    assert accepts(grammars, schema_grammar(schema), '{"description": 5}')


def test_what_must_come_next_is_known(grammars: Grammars):
    properties = {"first": {"type": "integer"}, "second": {"const": "x"}}
    schema = {"type": "object", "properties": properties, "required": ["first", "second"]}
    answer = matcher(grammars, schema_grammar(schema))
    forced = answer.forced()
    assert bytes(forced) == b'{"first": '
    assert answer.take(forced)
    assert answer.take_text("5,")
    assert bytes(forced := answer.forced()) == b' "second": "x"}'
    assert answer.take(forced)
    assert answer.ended
    assert answer.forced() == []


def test_a_vocabulary_without_some_bytes_forces_what_cannot_have_them():
    whole = byte_vocabulary()
    grammars = Grammars(
        replace(whole, pieces=[b"" if byte in (4, 0xF1) else piece for byte, piece in enumerate(whole.pieces)])
    )
    schema = {"type": "object", "properties": {"first": {"type": "integer"}}, "required": ["first"]}
    answer = matcher(grammars, schema_grammar(schema))
    assert bytes(answer.forced()) == b'{"first": '
    for byte in (r"\x04", "\U00040000"):  # none of these answers can be complete
        answer = matcher(grammars, Grammar("regex", f"ab{byte}c"))
        assert answer.forced() == []
        assert answer.take_text("ab")
        with pytest.raises(GenerationError, match="no token"):
            answer.allowed()
    grammars.close()


def test_the_default_model_s_vocabulary_forces_keys(ctransformers_model: GGUFModel):
    schema = {"type": "object", "properties": {"a_long_name": {"type": "integer"}}, "required": ["a_long_name"]}
    params = SamplingParams(temperature=0, max_tokens=60, grammar=schema_grammar(schema))
    texts = [delta.text for delta in asyncio.run(deltas(ctransformers_model, params))]
    assert '{"a_long_name":' in texts[0]


async def deltas(model: GGUFModel, params: SamplingParams) -> list[Delta]:
    return [delta async for delta in model.complete("A number:", params)]
