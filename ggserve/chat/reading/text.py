"""Reads how a template writes an answer's text, and what it rejects."""

import re
from typing import Any

from ggserve.chat.format import Refusal
from ggserve.chat.reading.pieces import ENDS, short
from ggserve.chat.reading.probe import (
    ARGUMENTS,
    IDS,
    NAMES,
    SYSTEM,
    TEXT,
    USER,
    Messages,
    Probe,
    result,
    tool_call,
    user,
)


def read_content(probe: Probe) -> None:
    if USER not in (probe.render([user()]) or ""):
        probe.set(content="parts")
        if USER not in (probe.render([user()]) or ""):
            probe.set(content="string")


def read_refusals(probe: Probe) -> None:
    system = {"role": "system", "content": SYSTEM}
    answer = {"role": "assistant", "content": TEXT}
    trials: list[tuple[Refusal, Messages]] = [
        ("system", [system, user()]),
        ("late_system", [user(), answer, system, user()]),
        ("repeated_roles", [user(SYSTEM), user()]),
    ]
    refused = {name for name, messages in trials if SYSTEM not in (probe.render(messages) or "")}
    silent, said = ([_calling(probe, content, arguments) for arguments in ARGUMENTS] for content in (None, TEXT))
    if all(text is None or re.search(r"\b(None|null)\b", text) for text in silent):
        refused.add("null_content")
    if all(text is None or TEXT not in text for text in said):
        refused.add("text_with_calls")
    probe.set(refused=frozenset(refused))


def _calling(probe: Probe, content: str | None, arguments: Any) -> str | None:
    """A chat with one call and its result."""
    call = tool_call(0, NAMES[0], arguments, IDS[0])
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    return probe.render([user(), message, result(0)], tools=True)


def read_text(probe: Probe) -> None:
    without, prompt = probe.render([user()]), probe.render([user()], prompt=True)
    probe.always_prompts = without == prompt and prompt is not None and not prompt.endswith(USER)
    probe.set(answer_open=short(probe.prompt(None)))
    answer = probe.answer({"content": TEXT})
    before, found, end = answer.partition(TEXT)
    if found:
        found_end = ENDS.search(end)
        text_close, probe.end = (end[: found_end.start()], end[found_end.start() :]) if found_end else ("", end)
        probe.end, probe.before_text = short(probe.end), before
        probe.set(ends=tuple(filter(None, (probe.end.strip(),))), text_close=short(text_close.strip()))
    else:
        probe.before_text = probe.form.answer_open
    earlier = probe.render([user(), {"role": "assistant", "content": TEXT}, user("Zqagain")]) or ""
    between = earlier.partition(USER)[2].partition(TEXT)[0]
    user_end = (without or "").partition(USER)[2]
    probe.earlier = between if probe.always_prompts else between.removeprefix(user_end)
    probe.earlier = probe.earlier if TEXT in earlier else before
    probe.header = min((text for text in (probe.form.answer_open, probe.earlier, before) if text), key=len, default="")
