"""Calls of a conversation, as templates want them."""

from ggserve.chat.tool_calls.history import wants_short_ids, with_short_ids


def test_short_ids_still_tell_which_result_belongs_to_which_call():
    calls = [{"id": f"call_{name * 24}", "function": {"name": "look"}} for name in "ab"]
    asked, *results = with_short_ids(
        [
            {"role": "assistant", "content": "", "tool_calls": calls},
            *[{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in calls],
        ]
    )
    ids = [call["id"] for call in asked["tool_calls"]]
    assert ids == [result["tool_call_id"] for result in results]
    assert len(set(ids)) == 2
    assert all(len(name) == 9 and name.isalnum() for name in ids)


def test_ids_that_are_short_stay():
    messages = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "abcdefXY9", "content": "x"}]
    assert with_short_ids(messages) == messages


def test_which_templates_want_them():
    assert wants_short_ids("{%- if tool_call.id is not defined or tool_call.id|length != 9 %}")
    assert not wants_short_ids("{% if messages | length != 90 %}")
