"""Deltas become blocks that follow each other, and every block that starts ends."""

from hypothesis import given
from hypothesis import strategies as st

from ggserve.api.answer import Answer
from ggserve.generation import Delta
from ggserve.messages import ToolCallDelta


def delta(text: str = "", reasoning: str = "", calls: tuple[ToolCallDelta, ...] = ()) -> Delta:
    return Delta(text, 1, 0, 1, None, reasoning, calls)


END = Delta("", 1, 0, 1, "stop")


def test_thoughts_texts_and_calls_are_blocks() -> None:
    answer = Answer()
    deltas = [
        delta(reasoning="I "),
        delta(reasoning="think", text="so"),
        delta("."),
        delta(calls=(ToolCallDelta(0, "", "a", "f"),)),
        delta(calls=(ToolCallDelta(0, "{}"), ToolCallDelta(1, "[", "b", "g"))),
        delta(calls=(ToolCallDelta(1, "]"),)),
    ]
    steps = [step.what for item in (*deltas, END) for step in answer.add(item)]
    assert (answer.reasoning, answer.text, len(answer.calls)) == ("I think", "so.", 2)
    assert [(block.kind, block.text, block.id, block.name) for block in answer.blocks] == [
        ("reasoning", "I think", "", ""),
        ("text", "so.", "", ""),
        ("call", "{}", "a", "f"),
        ("call", "[]", "b", "g"),
    ]
    assert (steps.count("start"), steps.count("end")) == (4, 4)


pieces = st.builds(
    delta,
    st.sampled_from(["", "a"]),
    st.sampled_from(["", "b"]),
    st.sampled_from([(), (ToolCallDelta(0, "c", "i", "f"),), (ToolCallDelta(1, "d", "j", "g"),)]),
)


@given(st.lists(pieces, max_size=8))
def test_blocks_open_and_close_in_order_and_nothing_is_lost(deltas: list[Delta]) -> None:
    answer = Answer()
    open_index, started = None, 0
    for step in [step for item in (*deltas, END) for step in answer.add(item)]:
        if step.what == "start":
            assert open_index is None
            open_index = step.block.index
            assert open_index == started
            started += 1
        assert step.block.index == open_index
        if step.what == "end":
            open_index = None
    assert open_index is None
    shown = "".join(block.text for block in answer.blocks)
    assert shown == "".join(d.reasoning + d.text + "".join(c.arguments for c in d.tool_calls) for d in deltas)
