"""Messages in the form that templates take."""

import json

import pytest

from ggserve.chat.format import CallsFormat, ChatFormat, ThoughtFormat
from ggserve.chat.history import History, checked
from ggserve.chat.own_tools import HERMES
from ggserve.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}


def call(name: str, arguments: object = "{}", call_id: object = None) -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict, content: str = "") -> dict:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(content: str, **fields: object) -> dict:
    return {"role": "tool", "content": content, **fields}


def arranged(*messages: dict, form: ChatFormat | None = None, own_tools: list | None = None) -> list[dict]:
    return History(form or ChatFormat(calls=HERMES), "<m>").arranged(checked(messages), own_tools)


def test_results_follow_the_order_of_their_calls() -> None:
    calls = calling(call("f", call_id="a"), call("g", call_id="b"))
    told = arranged(USER, calls, result("2", tool_call_id="b"), result("1", tool_call_id="a"))
    assert [(m["content"], m["tool_call_id"], m["name"]) for m in told[2:]] == [("1", "a", "f"), ("2", "b", "g")]


def test_a_result_without_an_id_is_that_of_its_name_or_the_next_one() -> None:
    calls = calling(call("f"), call("g"), call("f"))
    told = arranged(USER, calls, result("2", name="g"), result("1"), result("3", name="f"))
    assert [m["content"] for m in told[2:]] == ["3", "2", "1"]
    ids = [made["id"] for made in told[1]["tool_calls"]]
    assert len(set(ids)) == 3
    assert [m["tool_call_id"] for m in told[2:]] == ids


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (None, {}),
        ('{"a": 1, "b": "tex', {"a": 1, "b": "tex"}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ({"a": 1}, {"a": 1}),
        ("[1]", {}),
        ("no JSON", {"arguments": "no JSON"}),
    ],
)
def test_arguments_of_earlier_calls_are_objects(arguments: object, expected: dict) -> None:
    told = arranged(USER, calling(call("f", arguments)))
    assert told[1]["tool_calls"][0]["function"]["arguments"] == expected


def test_templates_that_take_texts_get_arguments_as_text() -> None:
    calls = CallsFormat(first="a", after_name="b", last="c", string_arguments=True)
    told = arranged(USER, calling(call("f", '{"a": 1}')), form=ChatFormat(calls=calls))
    assert json.loads(told[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


@pytest.mark.parametrize("calls", [["x"], "x", [{"function": "f"}], [{"function": {"arguments": {}}}]])
def test_calls_that_make_no_sense_are_refused(calls: object) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked([{"role": "assistant", "content": "", "tool_calls": calls}])
    assert refusal.value.field == "messages"


def test_ids_are_of_the_form_that_the_template_takes() -> None:
    for form, fits in (("mistral", lambda i: len(i) == 9 and i.isalnum()), ("kimi", lambda i: i == "functions.f:0")):
        calls = CallsFormat(first="a", after_name="b", last="c", next="d", id_form=form)
        told = arranged(USER, calling(call("f", call_id=5)), result("1", tool_call_id=5), form=ChatFormat(calls=calls))
        call_id = told[1]["tool_calls"][0]["id"]
        assert fits(call_id)
        assert told[2]["tool_call_id"] == call_id


def test_parallel_calls_become_several_messages_where_they_are_refused() -> None:
    form = ChatFormat(calls=HERMES, refused=frozenset(("parallel_calls",)))
    calls = calling(call("f", call_id="a"), call("g", call_id="b"), content="I look.")
    told = arranged(USER, calls, result("1", tool_call_id="a"), result("2", tool_call_id="b"), USER, form=form)
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "assistant", "tool", "user"]
    assert [len(m.get("tool_calls") or ()) for m in told] == [0, 1, 0, 1, 0, 0]


def test_a_refused_system_message_is_a_part_of_the_user_s_turn() -> None:
    system = {"role": "system", "content": "Be brief."}
    form = ChatFormat(calls=HERMES, refused=frozenset(("system", "repeated_roles")))
    assert arranged(system, USER, form=form) == [{"role": "user", "content": "Be brief.\n\nHi"}]


def test_only_leading_system_messages_are_joined() -> None:
    one, two, late = ({"role": "system", "content": text} for text in ("One.", "Two.", "Late."))
    told = arranged(one, two, USER, late, USER)
    assert [(m["role"], m["content"]) for m in told] == [
        ("system", "One.\n\nTwo."),
        ("user", "Hi"),
        ("system", "Late."),
        ("user", "Hi"),
    ]


def test_our_own_tool_prompt_changes_the_leading_system_message_only() -> None:
    late = {"role": "system", "content": "Late."}
    told = arranged(USER, late, USER, own_tools=[{"type": "function", "function": {"name": "f"}}])
    assert [m["role"] for m in told] == ["system", "user", "system", "user"]
    assert '"name": "f"' in told[0]["content"]
    assert told[2]["content"] == "Late."


def test_our_own_tool_prompt_tells_calls_and_results_as_text() -> None:
    told = arranged(USER, calling(call("f", '{"a": 1}'), content="I look."), result("Sun."), own_tools=[])
    assert told[1]["content"] == 'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert told[2]["content"] == "<tool_response>\nSun.\n</tool_response>"
    assert "tool_calls" not in told[1]


def test_text_parts_are_lines_and_images_markers() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    parts = [{"type": "text", "text": "What"}, image, {"type": "text", "text": "is it?"}]
    history = History(ChatFormat(calls=HERMES), "<m>")
    told = history.arranged(checked([{"role": "user", "content": parts}]))
    assert told[0]["content"] == "What\n<m>\nis it?"
    assert history.images == ["data:,x"]


def test_a_template_of_parts_gets_parts() -> None:
    told = arranged(USER, form=ChatFormat(calls=HERMES, content="parts"))
    assert told[0]["content"] == [{"type": "text", "text": "Hi"}]


@pytest.mark.parametrize("spelling", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("reasoning_content", {"reasoning_content": "Hm.", "content": "Yes."}),
        ("thinking", {"thinking": "Hm.", "content": "Yes."}),
        ("content", {"content": "<think>Hm.</think>Yes."}),
        ("none", {"content": "Yes."}),
        ("parts", {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]}),
    ],
)
def test_thoughts_of_earlier_turns_go_where_the_template_looks(spelling: str, field: str, expected: dict) -> None:
    thought = ThoughtFormat(open="<think>", close="</think>", message_field=field)
    form = ChatFormat(calls=HERMES, thought=thought)
    told = arranged(USER, {"role": "assistant", "content": "Yes.", spelling: "Hm."}, USER, form=form)
    assert told[1] == {"role": "assistant", **expected}
