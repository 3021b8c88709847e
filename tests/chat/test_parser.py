"""Answers in well-known formats, in any pieces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.chat.parser import AnswerParser, CallPiece, Text, Thought
from tests.chat.formats import ALL

SCHEMAS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array"}},
    },
    "get": {"type": "object", "properties": {}},
}
ARGUMENTS = {"city": 'São "Paulo"\n<b>', "days": 3, "tags": ["a", {"b": None}]}
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
PLAIN = {"city": "Paris", "days": 3}
ANSWERS = {
    "qwen3": (
        '<think>\nHm. <tool_call>\n{"name": "get"}\n</think>\n\nWell:\n'
        f'<tool_call>\n{{"name": "get_weather", "arguments": {JSON}}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {}, "name": "get"}\n</tool_call>',
        'Hm. <tool_call>\n{"name": "get"}',
        "Well:",
        [("get_weather", ARGUMENTS), ("get", {})],
    ),
    "mistral": (
        f"Well:[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{JSON}[TOOL_CALLS]get[CALL_ID]abcdefghi[ARGS]{{}}",
        "",
        "Well:",
        [("get_weather", ARGUMENTS), ("get", {})],
    ),
    "qwen3-coder": (
        "Well:\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n\n</parameter>\n<parameter=days>\n3\n"
        '</parameter>\n<parameter=tags>\n["a"]\n</parameter>\n</function>\n</tool_call>\n'
        "<tool_call>\n<function=get>\n</function>\n</tool_call>",
        "",
        "Well:",
        [("get_weather", {"city": "Paris\n", "days": 3, "tags": ["a"]}), ("get", {})],
    ),
    "lfm2": (
        "Well:<|tool_call_start|>[get_weather(city='Paris, (F)', days=3, tags=['a', {'b': None}]), "
        "get()]<|tool_call_end|>",
        "",
        "Well:",
        [("get_weather", {"city": "Paris, (F)", "days": 3, "tags": ["a", {"b": None}]}), ("get", {})],
    ),
    "gpt-oss": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary "
        f"<|constrain|>json<|message|>{JSON}",
        "Hm.",
        "",
        [("get_weather", ARGUMENTS)],
    ),
    "qwen3 says": ("<think>\n\n</think>\n\nA <tool_call> is {}\n", "", "A <tool_call> is {}\n", []),
    "qwen3 other": (
        'I <tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        "",
        'I <tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        [],
    ),
    "gpt-oss says": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|> Well.",
        "Hm.",
        "Well.",
        [],
    ),
    "lfm2 says": (" Well [get()].", "", " Well [get()].", []),
}


def read(name, pieces):
    parser = AnswerParser(ALL[name.split()[0]], SCHEMAS)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    calls = []
    for part in parts:
        if isinstance(part, CallPiece):
            if part.name is not None:
                assert part.index == len(calls)
                calls.append([part.name, ""])
            calls[part.index][1] += part.arguments
    return (
        "".join(part.text for part in parts if isinstance(part, Thought)),
        "".join(part.text for part in parts if isinstance(part, Text)),
        [(name, json.loads(arguments)) for name, arguments in calls],
    )


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_told_apart(name):
    text, *parts = ANSWERS[name]
    assert list(read(name, [text])) == parts


@pytest.mark.parametrize("name", ANSWERS)
def test_one_character_at_a_time(name):
    text, *parts = ANSWERS[name]
    assert list(read(name, text)) == parts


@given(data=st.data(), name=st.sampled_from(sorted(ANSWERS)))
@settings(deadline=None, max_examples=300)
def test_any_split_gives_the_same(data, name):
    text = ANSWERS[name][0]
    text = text[: data.draw(st.integers(0, len(text)))]  # and any end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parsers = [AnswerParser(ALL[name.split()[0]], SCHEMAS) for _ in range(2)]
    whole = [*parsers[0].push(text), *parsers[0].finish()]
    split = [part for piece in pieces for part in parsers[1].push(piece)] + parsers[1].finish()
    assert joined(whole) == joined(split)


def joined(parts):
    found = []
    for part in parts:
        kind = (type(part), getattr(part, "index", 0))
        text = (
            (part.name or "") + "|" + part.arguments
            if isinstance(part, CallPiece) and part.name
            else (part.arguments if isinstance(part, CallPiece) else part.text)
        )
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found
