"""Proves a format: it must predict how the template writes another thought and other calls."""

import json
from collections.abc import Sequence
from typing import Any

from ggserve.chat.reading.probe import Probe, thinking, tool_call
from ggserve.chat.reading.thoughts import guess_thought
from ggserve.chat.writing import write_answer, written_alike


def prove(probe: Probe) -> None:
    """Keep the parts that predict other renderings."""
    if not _predicts_thoughts(probe):
        probe.set(thought=None)
        guess_thought(probe)
    if probe.form.calls and not _predicts_calls(probe):
        probe.set(calls=None)


def _predicts_thoughts(probe: Probe) -> bool:
    form, thought, text = probe.form.thought, "Why not\nso?", "It is so."
    if form is None or form.message_field in ("content", "none"):
        return True
    calls = []
    if probe.closes_to_call and probe.form.calls:
        text, calls = "", [("look_up", {"place": "Ort"}, "Abcdefgh1")]
    message = thinking(form.message_field, thought, text)
    if calls:
        message["tool_calls"] = _given(probe, calls)
    answer = probe.answer(message, tools=bool(calls), variables=probe.thinks_with)
    expected = write_answer(probe.form, thought, text, calls)
    return written_alike(answer, expected if form.open in answer else expected.removeprefix(form.open))


def _predicts_calls(probe: Probe) -> bool:
    form = probe.form.calls
    assert form is not None
    silent = None if "null_content" not in probe.form.refused else ""
    for count in (3, 2) if form.next is not None else (1,):
        names = ("look_up", "find", "x1")[:count]
        made = [(name, {"place": f"Ort {i}", "how": "so & so"}, f"Abcdefgh{i}") for i, name in enumerate(names)]
        answer = probe.answer({"content": silent, "tool_calls": _given(probe, made)}, tools=True)
        if written_alike(answer, write_answer(probe.form, "", "", made)):
            return True
    return False


def _given(probe: Probe, calls: Sequence[tuple[str, dict[str, Any], str]]) -> list[dict[str, Any]]:
    """Return calls in the form that the template takes."""
    form = probe.form.calls
    assert form is not None
    return [
        tool_call(
            index,
            name,
            json.dumps(arguments) if form.string_arguments else arguments,
            f"functions.{name}:{index}" if form.id_form == "kimi" else call_id,
        )
        for index, (name, arguments, call_id) in enumerate(calls)
    ]
