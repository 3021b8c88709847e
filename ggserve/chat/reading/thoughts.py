"""Reads how a template writes a thought, and which variables turn thinking on and off."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ggserve.chat.format import ThoughtField, ThoughtFormat
from ggserve.chat.reading.pieces import LONGEST, TOKENS, first_tag, shared_tokens, short
from ggserve.chat.reading.probe import IDS, KEYS, NAMES, TEXT, THOUGHT, VALUES, Probe, thinking, tool_call, user

_FIELDS: tuple[ThoughtField, ...] = ("reasoning_content", "reasoning", "thinking", "parts")
_OFF: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"thinking": False},
    {"thinking_mode": "disabled"},
    {"reasoning_effort": "none"},
)
_ON: tuple[dict[str, Any], ...] = ({"enable_thinking": True}, {"thinking": True}, {"thinking_mode": "enabled"})
# Literals that open and close thoughts in templates that write no earlier thoughts.
_TAGS = re.compile(r"<((?:\w+:)?(?:think|thinking|thought|reasoning))>|<\|START_(THINKING)\|>")


def read_thought(probe: Probe) -> None:
    """Return how a thought is written, in the first field that the template reads."""
    call = tool_call(0, NAMES[0], {KEYS[0]: VALUES[0]}, IDS[0])
    for variables in (None, *_ON):
        for name in _FIELDS:
            answer = probe.answer(thinking(name, THOUGHT, TEXT), variables=variables)
            with_call = ""
            if answer.count(THOUGHT) != 1:
                message = {**thinking(name, THOUGHT, ""), "tool_calls": [call]}
                with_call = probe.answer(message, tools=True, variables=variables)
            found = answer if answer.count(THOUGHT) == 1 else with_call
            if found.count(THOUGHT) == 1 and not re.search(r"['\"]thinking['\"]", found):
                probe.thinks_with = variables
                _take_thought(probe, name, found)
                return
    _read_text_open(probe, probe.before_text)
    guess_thought(probe)


def _take_thought(probe: Probe, name: ThoughtField, answer: str) -> None:
    before, _, after = answer.partition(THOUGHT)
    header = _header_of(probe, before)
    opening = before[len(header) :]
    prompt = probe.prompt(probe.thinks_with)
    if prompt.startswith(before) and before.strip() and len(prompt) > len(before):
        header, opening = before, prompt[len(before) :]  # only the prompt shows what opens a thought
    close = after.partition(TEXT)[0] if TEXT in after else "".join(first_tag(after))
    tag = re.search(r"</([^<>|]+)>|<\|END_(\w+)\|>", close)
    if tag and header.rstrip().endswith((f"<{tag[1]}>", f"<|START_{tag[2]}|>")):
        at = header.rindex("<")
        header, opening = header[:at], header[at:] + opening
    rest = probe.before_text.removeprefix(header) if probe.before_text.startswith(header) else ""
    text_open = ""
    if rest and TEXT in after and close.endswith(rest) and close[: -len(rest)].strip():
        text_open, close, rest = rest, close[: -len(rest)], ""
    probe.header = header
    probe.closes_to_call = TEXT not in after
    if opening.strip() and len(opening) <= LONGEST and len(close) <= LONGEST:
        thought = ThoughtFormat(open=opening, close=close, none=short(rest), message_field=name)
        probe.set(thought=thought, text_open=text_open)


def guess_thought(probe: Probe) -> None:
    """Return the format of a template that drops thoughts, from the tags in its prompts or its source."""
    prompts = [probe.form.answer_open, *(probe.prompt(variables) for variables in (*_ON, *_OFF))]
    for text in (*prompts, probe.template.source):
        tag = _TAGS.search(text)
        closing = "" if tag is None else f"</{tag[1]}>" if tag[1] else f"<|END_{tag[2]}|>"
        if tag and (closing in probe.template.source or text is not probe.template.source):
            opening, close = (f"{tag[0]}\n", f"\n{closing}\n\n") if tag[1] else (tag[0], closing)
            message = {"content": f"{opening}{THOUGHT}{close}{TEXT}"}
            written = probe.answer(message)
            kept = THOUGHT in written and written.count(tag[0]) == 1
            probe.set(thought=ThoughtFormat(open=opening, close=close, message_field="content" if kept else "none"))
            probe.header = probe.header.partition(tag[0])[0]
            probe.set(text_open="" if closing in probe.form.text_open else probe.form.text_open)
            return


def _read_text_open(probe: Probe, before: str) -> None:
    if probe.form.answer_open and before.startswith(probe.form.answer_open):
        probe.set(text_open=short(before[len(probe.form.answer_open) :]))
        probe.header = probe.form.answer_open


def _header_of(probe: Probe, before: str) -> str:
    """Return the part of the text before a thought that also comes before answers without one."""
    others = [probe.form.answer_open, probe.earlier, probe.before_text]
    others += [probe.prompt(variables) for variables in (*_OFF, *_ON)]
    shared = [shared_tokens(before, other) for other in others if other]
    shorter = [text for text in shared if text and text != before]
    if shorter:
        return min(shorter, key=len)
    tokens = TOKENS.findall(before)
    tags = [index for index, token in enumerate(tokens) if not token.isspace() and re.match(r"<|\[", token)]
    return "".join(tokens[: tags[-1]]) if tags else before


def read_switches(probe: Probe) -> None:
    """Return the template variables that turn thinking on and off."""
    if probe.form.thought is None:
        return
    usual = probe.render([user()], prompt=True)

    def first_that_changes(choices: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        for variables in choices:
            rendered = probe.render([user()], prompt=True, variables=variables)
            if rendered is not None and rendered != usual:
                return variables
        return None

    off, on = first_that_changes(_OFF), first_that_changes(_ON)
    probe.set(thought=replace(probe.form.thought, on=on, off=off))
