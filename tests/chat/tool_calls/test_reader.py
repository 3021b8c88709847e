"""Calls in an answer, however it is cut into pieces; what is no call stays text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.chat.tool_calls import HERMES, CallFormat
from ggserve.chat.tool_calls.functionary import FUNCTIONARY
from ggserve.chat.tool_calls.llama3 import LLAMA3
from ggserve.chat.tool_calls.mistral import MISTRAL_LIST, MISTRAL_NAMES
from ggserve.chat.tool_calls.reader import CallPiece, CallReader

FORMATS = {
    "hermes": HERMES,
    "llama3": LLAMA3,
    "functionary": FUNCTIONARY,
    "mistral, a list": MISTRAL_LIST,
    "mistral, names": MISTRAL_NAMES,
}
NAMES = ["get_weather", "get_time"]


def read(form: CallFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and name and arguments of each call."""
    reader = CallReader(form, NAMES)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    text = "".join(part for part in parts if isinstance(part, str))
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallPiece):
            if part.name:
                assert part.index == len(calls)
                calls.append((part.name, ""))
            name, arguments = calls[part.index]
            calls[part.index] = name, arguments + part.arguments
    return text, calls


def spelled(form: CallFormat, *arguments: str) -> str:
    opening = "" if form.listed else form.opening
    calls = form.between.join(
        f"{opening}{form.before_name}get_weather{form.after_name}{one}{form.after_arguments}{form.closing}"
        for one in arguments
    )
    return f"{form.opening}[{calls}]" if form.listed else calls


CITY = '{"city": "a \\"}{[\\\\", "b": [{}, "<tool_call>"]}'


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("count", [1, 3])
def test_calls_are_read_in_whatever_pieces_they_come(form: CallFormat, count: int):
    answer = spelled(form, *[CITY] * count)
    for size in (1, 2, 3, 7, 1000):
        pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
        assert read(form, pieces) == ("", [("get_weather", CITY)] * count)


@pytest.mark.parametrize("form", [HERMES, FUNCTIONARY, MISTRAL_LIST, MISTRAL_NAMES])
def test_text_around_calls_is_kept(form: CallFormat):
    answer = f"Let me see < {spelled(form, '{}')}\nDone."
    assert read(form, list(answer)) == ("Let me see < \nDone.", [("get_weather", "{}")])


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_name_comes_before_the_arguments_are_complete(form: CallFormat):
    answer = spelled(form, '{"city": "Paris"}')
    reader = CallReader(form, NAMES)
    parts = reader.push(answer[: answer.index("aris")])
    assert parts[0] == CallPiece(0, name="get_weather")
    assert parts[1] == CallPiece(0, '{"city": "P')


@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>nothing</tool_call>",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>{"name": "get_time", "arguments": 5}</tool_call>',
        '<tool_call>{"name": ',
        "<tool_call>{]}</tool_call>",
        "<tool_cal",
        "a <tool_call> tag",
        "[" * 5000,
        '<tool_call>{"a": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_what_is_no_call_stays_text(answer: str):
    assert read(HERMES, [answer]) == (answer, [])
    assert read(HERMES, list(answer)) == (answer, [])


@pytest.mark.parametrize("answer", ["Hello", '{"a": 5}', '{"name": "x", "parameters": {}}', "{", " {}", "{\n5"])
def test_bare_json_that_is_no_call_stays_text(answer: str):
    assert read(LLAMA3, list(answer)) == (answer, [])


@pytest.mark.parametrize(
    "call",
    [
        '{"arguments": {"city": "x"}, "name": "get_weather"}',
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"x\\"}"}',
        '{"name":"get_weather","parameters":{"city": "x"}}',
        '{"name": "get_weather", "id": 5, "arguments": {"city": "x"}}',
        '{"name": "get_weather", "arguments": {"city": "x"}, "id": 5}',
    ],
)
def test_calls_that_are_written_another_way(call: str):
    for closing in ("</tool_call>", "\n</tool_call>", ""):
        assert read(HERMES, list(f"<tool_call>{call}{closing}")) == ("", [("get_weather", '{"city": "x"}')])


@pytest.mark.parametrize(
    "answer",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] no list",
        "[TOOL_CALLS] [5]",
        '[TOOL_CALLS][{"name": "unknown", "arguments": {}}]',
        "[TOOL_CALLS][]",
    ],
)
def test_mistrals_token_without_calls_stays_text(answer: str):
    assert read(MISTRAL_LIST, [answer]) == (answer, [])
    assert read(MISTRAL_LIST, list(answer)) == (answer, [])


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (MISTRAL_LIST, '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "x"}, "id": "a1b2c3d4e"}]'),
        (MISTRAL_LIST, '[TOOL_CALLS][{"arguments": {"city": "x"}, "name": "get_weather"}]'),
        (MISTRAL_NAMES, '[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "x"}'),
        (MISTRAL_NAMES, '[TOOL_CALLS] get_weather[ARGS] {"city": "x"}'),
    ],
)
def test_calls_as_mistrals_models_write_them(form: CallFormat, answer: str):
    assert read(form, list(answer)) == ("", [("get_weather", '{"city": "x"}')])


def test_a_list_of_calls_that_goes_wrong_stays_text_from_there():
    first, second = '{"name": "get_weather", "arguments": {}}', '{"name": "unknown", "arguments": {}}'
    answer = f"[TOOL_CALLS][{first}, {second}]"
    assert read(MISTRAL_LIST, list(answer)) == (f", {second}]", [("get_weather", "{}")])


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(list(FORMATS.values())),
    st.lists(
        st.sampled_from(
            [
                "OPENING",
                "CLOSING",
                '{"name": "',
                "get_time",
                '", "arguments": ',
                "[ARGS]",
                "{",
                "}",
                "[",
                "]",
                ", ",
                '"',
                "x\n",
            ]
        )
    ),
)
def test_no_answer_breaks_it(form: CallFormat, pieces: list[str]):
    tags = {"OPENING": form.opening, "CLOSING": form.closing}
    pieces = [tags.get(piece, piece) for piece in pieces]
    text, calls = read(form, pieces)
    if not calls:
        assert text == "".join(pieces)
    assert read(form, list("".join(pieces))) == (text, calls)
