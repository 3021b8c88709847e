"""The grammar of an answer in a model's chat format, written in both languages."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ggserve.chat.answer_grammar import answer_grammar
from ggserve.chat.exceptions import minimax_m3
from ggserve.chat.exceptions.minimax_m3 import NAMESPACE
from ggserve.chat.format import ID, INDEX, ArgumentsFormat, CallsFormat, ChatFormat, ThoughtFormat, ThoughtState
from ggserve.chat.own_tools import HERMES
from ggserve.chat.parser import CallPiece, whole
from ggserve.errors import InvalidRequest
from ggserve.generation import Grammar, schema_grammar
from ggserve.grammar.gbnf import gbnf
from ggserve.grammar.lark import lark
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.grammar.requested import rules
from ggserve.messages import Tools

THINK = ThoughtFormat(open="<think>\n", close="\n</think>\n\n", none="<think>\n\n</think>\n\n")
FORMATS = {
    "qwen3": ChatFormat(thought=THINK, calls=HERMES),
    "hermes": ChatFormat(calls=HERMES),
    "llama3": ChatFormat(
        calls=CallsFormat(first='{"name": "', after_name='", "parameters": ', last="}", next='}; {"name": "')
    ),
    "mistral": ChatFormat(
        calls=CallsFormat(
            first='[TOOL_CALLS][{"name": "',
            after_name='", "arguments": ',
            next=f', "id": "{ID}"}}, {{"name": "',
            last=f', "id": "{ID}"}}]',
            id_form="mistral",
        )
    ),
    "kimi": ChatFormat(
        calls=CallsFormat(
            first="<|tool_calls_section_begin|><|tool_call_begin|>functions.",
            after_name=f":{INDEX}<|tool_call_argument_begin|>",
            next="<|tool_call_end|><|tool_call_begin|>functions.",
            last="<|tool_call_end|><|tool_calls_section_end|>",
        )
    ),
    "gpt-oss": ChatFormat(
        text_open="<|channel|>final<|message|>",
        thought=ThoughtFormat(
            open="<|channel|>analysis<|message|>",
            close="<|end|><|start|>assistant<|channel|>final<|message|>",
            close_to_call="<|end|><|start|>assistant",
        ),
        calls=CallsFormat(
            first="<|channel|>commentary to=functions.", after_name=" <|constrain|>json<|message|>", last="<|call|>"
        ),
    ),
    "glm": ChatFormat(
        thought=replace(THINK, open="<think>", close="</think>"),
        calls=CallsFormat(
            first="<tool_call>",
            after_name="\n",
            next="\n</tool_call>\n<tool_call>",
            last="\n</tool_call>",
            arguments=ArgumentsFormat(
                syntax="parameters",
                open="<arg_key>",
                after_key="</arg_key>\n<arg_value>",
                between="</arg_value>\n<arg_key>",
                close="</arg_value>",
            ),
        ),
    ),
    "lfm": ChatFormat(
        calls=CallsFormat(
            first="<|tool_call_start|>[",
            after_name="(",
            next="), ",
            last=")]<|tool_call_end|>",
            arguments=ArgumentsFormat(syntax="parameters", after_key="=", between=", ", quote='"'),
        )
    ),
    "gemma": ChatFormat(
        calls=CallsFormat(
            first="<|tool_call>call:",
            after_name="{",
            next="}<tool_call|><|tool_call>call:",
            last="}<tool_call|>",
            arguments=ArgumentsFormat(syntax="gemma"),
        )
    ),
    "minimax": minimax_m3.corrected(ChatFormat()),
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
TOOLS = (
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time"}},
)
NUMBER = schema_grammar({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, "format")


@pytest.fixture(scope="module", params=["Lark", "GBNF"])
def grammars(request: pytest.FixtureRequest) -> Iterator[Grammars]:
    grammars = Grammars(byte_vocabulary(), gbnf if request.param == "GBNF" else lark)
    yield grammars
    grammars.close()


def spelled(name: str, *cities: str, key: str = "city") -> str:
    """Return calls as a model of the format writes them."""
    calls = FORMATS[name].calls
    assert calls is not None
    form = calls.arguments
    arguments = [
        f"{form.open}{key}{form.after_key}{form.quote}{city}{form.quote}{form.close}"
        if form.syntax == "parameters"
        else f'{key}:<|"|>{city}<|"|>'
        if form.syntax == "gemma"
        else f"{NAMESPACE}<{key}>{city}{NAMESPACE}</{key}>"
        if form.syntax == "minimax"
        else json.dumps({key: city})
        for city in cities
    ]
    written = (calls.next or "").join(f"get_weather{calls.after_name}{one}" for one in arguments)
    text = f"{calls.first}{written}{calls.last}"
    return text.replace(ID, "abcdefghi").replace(INDEX, "0")


def accepts(
    grammars: Grammars,
    form: ChatFormat,
    text: str,
    *,
    own: Grammar | None = None,
    tools: Tools | None = None,
    state: ThoughtState = "free",
    **options: Any,
) -> bool:
    grammar = answer_grammar(form, tools, own, state, **options)
    if grammar is None:
        return True
    matcher, _ = asyncio.run(grammars.matcher(grammar))
    return matcher.take_text(text) and matcher.complete


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_calls_are_those_of_the_format(grammars: Grammars, name: str, parallel: bool, required: bool):
    form = FORMATS[name]
    tools = Tools(TOOLS, required=required, parallel=parallel)
    assert form.calls is not None

    def fits(text: str) -> bool:
        return accepts(grammars, form, text, tools=tools)

    good = spelled(name, "Oslo")
    assert fits(good)
    assert fits(spelled(name, "Oslo", "Rome")) == (parallel and form.calls.next is not None)
    assert not fits(spelled(name, "Oslo", key="town"))
    assert not fits(good.replace("get_weather", "get_x"))
    assert fits(f"{form.text_open}Hello <{{") != required
    assert fits(form.text_open) != required
    if not form.text_open and not good.startswith("{"):
        assert fits(f"Let me see. {good}") != required


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_may_call_or_follow_a_schema(grammars: Grammars, name: str):
    form = FORMATS[name]
    tools = Tools(TOOLS)
    good = spelled(name, "Oslo")
    assert accepts(grammars, form, f'{form.text_open}{{"n": 5}}', own=NUMBER, tools=tools)
    assert accepts(grammars, form, good, own=NUMBER, tools=tools)
    for other in ("Hello", f'{form.text_open}{{"m": 5}}', good + '{"n": 5}', '{"n": 5}' + good):
        assert not accepts(grammars, form, other, own=NUMBER, tools=tools)
    regex = Grammar("regex", "a+")
    assert accepts(grammars, form, f"{form.text_open}aa", own=regex, tools=tools)
    assert not accepts(grammars, form, good, own=regex, tools=tools)


@pytest.mark.parametrize("name", ["qwen3", "glm", "gpt-oss"])
@pytest.mark.parametrize(
    "own", [NUMBER, Grammar("regex", r'\{"n": 5\}'), Grammar("gbnf", 'root ::= "{" a\na ::= "\\"n\\": 5}"')]
)
def test_structured_output_comes_after_the_thought(grammars: Grammars, name: str, own: Grammar):
    form = FORMATS[name]
    assert form.thought is not None
    thought = f"I think <tool_call> <thinking> {{}} \n so.{form.thought.close}"
    answer = '{"n": 5}'
    assert accepts(grammars, form, f"{thought}{answer}", own=own, state="open")
    assert accepts(grammars, form, f"{form.thought.open}{thought}{answer}", own=own)
    assert accepts(grammars, form, f"{form.text_open}{answer}", own=own)
    assert accepts(grammars, form, f"{form.text_open}{answer}", own=own, state="closed")
    assert not accepts(grammars, form, f"{form.thought.open}{thought}{answer}", own=own, state="closed")
    assert not accepts(grammars, form, f"{form.thought.open}{thought}{answer}", own=own, thinks=False)
    assert not accepts(grammars, form, answer, own=own, state="open")
    assert not accepts(grammars, form, f"{thought}{answer}{answer}", own=own, state="open")
    assert not accepts(grammars, form, f"{thought}Here it is: {answer}", own=own, state="open")


@pytest.mark.parametrize("name", ["qwen3", "glm", "gpt-oss"])
@pytest.mark.parametrize("state", ["open", "free"])
def test_calls_come_after_the_thought(grammars: Grammars, name: str, state: ThoughtState):
    form = FORMATS[name]
    assert form.thought is not None
    call = spelled(name, "Oslo")
    begun = "" if state == "open" else form.thought.open
    to_call = form.thought.close_to_call or form.thought.close
    thought = f"{begun}The {'tool' if form.text_open else call} <thinks>.{to_call}"
    for required in (False, True):
        tools = Tools(TOOLS, required=required, parallel=False)
        assert accepts(grammars, form, thought + call, tools=tools, state=state)
        assert accepts(grammars, form, f"{begun}Hm.{form.thought.close}Hello", tools=tools, state=state) != required
        assert not accepts(grammars, form, thought + spelled(name, "Oslo", key="town"), tools=tools, state=state)


def test_a_call_ends_the_thought_where_the_model_leaves_it_open(grammars: Grammars):
    form = replace(FORMATS["qwen3"], thought=replace(THINK, calls_close=True))
    tools = Tools(TOOLS, parallel=False)
    assert accepts(grammars, form, f"Hm. {spelled('qwen3', 'Oslo')}", tools=tools, state="open")
    assert not accepts(grammars, form, f"Hm. {spelled('qwen3', 'Oslo', key='x')}", tools=tools, state="open")


def test_raw_texts_are_as_long_as_the_schema_says(grammars: Grammars):
    short = {"type": "object", "properties": {"city": {"type": "string", "minLength": 2, "maxLength": 4}}}
    tools = Tools(({"type": "function", "function": {"name": "get_weather", "parameters": short}},), required=True)
    for city in ("", "O", "Oslo", "Lagos"):
        assert accepts(grammars, FORMATS["glm"], spelled("glm", city), tools=tools) == (2 <= len(city) <= 4)


NESTED = {
    "type": "object",
    "properties": {
        "Zone": {"type": "integer", "minimum": 1, "maximum": 9},
        "at": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "exact": {"type": "boolean"}}},
        "tags": {"type": "array", "items": {"type": ["string", "null"]}},
    },
    "required": ["at"],
}
VALUES: list[dict[str, Any]] = [
    {"at": {"city": "Oslo", "exact": True}, "tags": ["a, <b>", None], "Zone": 3},
    {"at": {"exact": False}},
    {"at": {"city": "Rome"}, "tags": ["x"]},
]
WRITTEN = {
    "gemma": [
        'at:{city:<|"|>Oslo<|"|>,exact:true},tags:[<|"|>a, <b><|"|>,null],Zone:3',
        "at:{exact:false}",
        'at:{city:<|"|>Rome<|"|>},tags:[<|"|>x<|"|>]',
    ],
    "minimax": [
        "#<Zone>3#</Zone>#<at>#<city>Oslo#</city>#<exact>true#</exact>#</at>"
        "#<tags>#<item>a, <b>#</item>#<item>null#</item>#</tags>",
        "#<at>#<exact>false#</exact>#</at>",
        "#<at>#<city>Rome#</city>#</at>#<tags>#<item>x#</item>#</tags>",
    ],
}


@pytest.mark.parametrize("name", ["hermes", *WRITTEN])
@pytest.mark.parametrize(
    "nested",
    [
        lambda inner: {"type": "array", "items": inner},
        lambda inner: {"type": "object", "properties": {"a": {"type": "integer"}, "b": inner}},
    ],
)
def test_deep_schemas_are_written_once(name: str, nested: Callable[[Any], Any]):
    schema: Any = {"type": "string"}
    for _ in range(40):
        schema = nested(schema)
    parameters = {"type": "object", "properties": {"x": schema}}
    tools = Tools(({"type": "function", "function": {"name": "f", "parameters": parameters}},), required=True)
    grammar = answer_grammar(FORMATS[name], tools, None, "closed")
    assert grammar is not None
    assert len(gbnf(rules(grammar))) < 20_000


@pytest.mark.parametrize("name", WRITTEN)
def test_nested_arguments_follow_the_schema(grammars: Grammars, name: str):
    form = FORMATS[name]
    tools = Tools(({"type": "function", "function": {"name": "f", "parameters": NESTED}},), required=True)

    def call(arguments: str) -> str:
        assert form.calls is not None
        return f"{form.calls.first}f{form.calls.after_name}{arguments.replace('#', NAMESPACE)}{form.calls.last}"

    for value, arguments in zip(VALUES, WRITTEN[name], strict=True):
        assert accepts(grammars, form, call(arguments), tools=tools)
        parts = whole(form, call(arguments), {"f": NESTED})
        assert json.loads("".join(part.arguments for part in parts if isinstance(part, CallPiece))) == value
    first = WRITTEN[name][0]
    for change in (("Oslo", "Bonn"), ("true", "1"), ("3", "10"), ("city", "town"), ("at", "it")):
        assert not accepts(grammars, form, call(first.replace(*change)), tools=tools)
    assert not accepts(grammars, form, call(""), tools=tools)
    parts = whole(form, call(first.replace("null", "{}")), {"f": NESTED})
    tags = json.loads("".join(part.arguments for part in parts if isinstance(part, CallPiece)))["tags"]
    assert tags[1] == ("{}" if name == "minimax" else {})  # raw text, or a value that the grammar excludes
    assert accepts(grammars, form, call(first.replace("null", "{}")), tools=tools) == (name == "minimax")


def test_control_tokens_of_the_format_are_tokens_where_the_engine_knows_them():
    grammar = answer_grammar(FORMATS["gpt-oss"], Tools(TOOLS), NUMBER, "free")
    assert grammar is not None
    controls = {"<|channel|>": 5, "<|message|>": 6, "<|end|>": 7, "<|start|>": 8, "<|call|>": 9, "<|constrain|>": 10}
    text = lark(grammar.rules, controls=controls)
    assert all(f"<[{token}]>" in text for token in controls.values())
    assert not any(f'"{name}' in text for name in controls)


BAD = {
    "a missing $ref": {"properties": {"a": {"$ref": "#/$defs/none"}}},
    "no type": {"properties": {"a": {"type": "any"}}},
    "a word boundary": {"properties": {"a": {"type": "string", "pattern": r"\bx\b"}}},
    "look-around": {"properties": {"a": {"type": "string", "pattern": "(?=x)"}}},
    "brackets": {"$defs": {"A[int]": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/A[int]"}}},
    "no schema": {"properties": 5},
    "not": {"properties": {"a": {"not": {"type": "string"}}}},
    "no list": {"properties": {"a": {"type": "integer"}}, "required": 5},
    "a number as enum": {"properties": {"a": {"type": "string", "enum": 5}}},
    "a number as type": {"properties": {"a": {"type": 5}}},
    "endless": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
}


@pytest.mark.parametrize("schema", BAD.values(), ids=BAD)
@pytest.mark.parametrize("name", ["hermes", "glm", "gemma", "minimax"])
def test_schemas_that_cannot_be_followed_are_left_out_or_named(grammars: Grammars, schema: dict[str, Any], name: str):
    bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **schema}}}
    form = FORMATS[name]
    assert accepts(grammars, form, "Hello", tools=Tools((*TOOLS, bad)))
    assert accepts(grammars, form, spelled(name, "Oslo"), tools=Tools((*TOOLS, bad)))
    assert not accepts(grammars, form, spelled(name, "Oslo", key="town"), tools=Tools((*TOOLS, bad)))
    if name != "hermes":
        return
    if "pattern" not in str(schema):
        call = '<tool_call>\n{"name": "f", "arguments": {"a": {"b": [1]}}}\n</tool_call>'
        assert accepts(grammars, form, call, tools=Tools((*TOOLS, bad)))
    strict = {**bad, "function": {**bad["function"], "strict": True}}
    for tools in (Tools((*TOOLS, strict)), Tools((*TOOLS, strict), required=True)):
        with pytest.raises(InvalidRequest, match="parameters of f") as caught:
            accepts(grammars, form, "Hello", tools=tools)
        assert caught.value.field == "tools"


@pytest.mark.parametrize("required", [False, True])
def test_many_large_tools_work(grammars: Grammars, required: bool):
    large = {f"p{number}": {"type": "string", "maxLength": 100} for number in range(8)}
    tools = Tools(
        tuple(
            {
                "type": "function",
                "function": {"name": f"tool_{n}", "parameters": {"type": "object", "properties": large}},
            }
            for n in range(127)
        )
        + TOOLS[:1],
        required=required,
    )
    form = FORMATS["hermes"]
    assert accepts(grammars, form, spelled("hermes", "Oslo"), tools=tools)
    assert not accepts(grammars, form, spelled("hermes", "Oslo", key="town"), tools=tools)  # the smallest is followed
    text = '<tool_call>\n{"name": "tool_126", "arguments": {"p1": "x"}}\n</tool_call>'
    assert accepts(grammars, form, text, tools=tools)
