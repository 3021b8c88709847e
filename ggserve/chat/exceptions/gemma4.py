"""Gemma 4. Its arguments are JSON with bare keys and with strings in a token of their own, and it writes empty thoughts
anywhere:

<|channel>thought
Thought.
<channel|><|tool_call>call:search{filters:{city:<|"|>Paris<|"|>,open:true},tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>
"""

import re
from dataclasses import replace
from typing import Any

from ggserve.chat.format import ArgumentsFormat, CallsFormat, ChatFormat, ThoughtFormat
from ggserve.chat.values import typed
from ggserve.grammar.rules import Literal, Marker, Repeat, Rule, TextBefore, optional, sequence

QUOTE = '<|"|>'
_SCALAR = re.compile(r"[^,\]}\s]+")
_KEY = re.compile(rf"\s*(?:{re.escape(QUOTE)}(.*?){re.escape(QUOTE)}|([^:{{}},]*?))\s*:", re.DOTALL)
_SPACE = re.compile(r"\s*")
_DEEPEST = 64


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "<|tool_call>call:" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with thoughts and calls."""
    thought = ThoughtFormat(
        open="<|channel>thought\n", close="\n<channel|>", on={"enable_thinking": True}, reopens=True
    )
    calls = CallsFormat(
        first="<|tool_call>call:",
        after_name="{",
        next="}<tool_call|><|tool_call>call:",
        last="}<tool_call|>",
        arguments=ArgumentsFormat(syntax="gemma"),
    )
    return replace(form, thought=thought, calls=calls)


NAMES_SORTED = True  # the template sorts the members of objects
SEPARATOR: Rule = Literal(",")


def member(name: str, value: Rule) -> Rule:
    """Return the rule of a member of an object."""
    return sequence(Literal(f"{name}:"), value)


def object_value(members: Rule) -> Rule:
    """Return the rule of an object inside the arguments."""
    return sequence(Literal("{"), members, Literal("}"))


def list_value(item: Rule) -> Rule:
    """Return the rule of a list of any length."""
    return sequence(Literal("["), optional(sequence(item, Repeat(sequence(SEPARATOR, item)))), Literal("]"))


def text_value(text: str | None) -> Rule:
    """Return the rule of a string: this one, or any."""
    quote = Marker(QUOTE)
    return sequence(quote, TextBefore(quote) if text is None else sequence(Literal(text), quote))


def scalar_value(scalar: Rule) -> Rule:
    """Return the rule of any other value, as JSON."""
    return scalar


def end(text: str) -> Rule:
    """The text after the arguments."""
    return Marker(text)


class _Incomplete(Exception):
    """The text ends within a value."""


def arguments(text: str) -> tuple[dict[str, Any], int] | None:
    """Parse the arguments at the beginning of a text, after the opening brace; return them and the place of the closing
    brace, or None if they are incomplete. Raises nothing: invalid values stay text."""
    try:
        value, end = _members(text, 0, 0)
    except _Incomplete:
        return None
    return value, end - 1


def _members(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    """Parse the members of an object after its brace; return them and where it ends."""
    found: dict[str, Any] = {}
    while True:
        at = _skip(text, at)
        if text[at] == "}":
            return found, at + 1
        if text[at] == ",":
            at += 1
            continue
        key = _KEY.match(text, at)
        if key is None:
            raise _Incomplete
        found[(key[1] if key[1] is not None else key[2]).strip()], at = _value(text, key.end(), depth)


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    at = _skip(text, at)
    if text.startswith(QUOTE, at):
        end = text.find(QUOTE, at + len(QUOTE))
        if end < 0:
            raise _Incomplete
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if QUOTE.startswith(text[at : at + len(QUOTE)]) and at + len(QUOTE) > len(text):
        raise _Incomplete
    if depth < _DEEPEST and text[at] == "{":
        return _members(text, at + 1, depth + 1)
    if depth < _DEEPEST and text[at] == "[":
        return _items(text, at + 1, depth + 1)
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        return None, at
    if scalar.end() == len(text):
        raise _Incomplete
    return typed(scalar[0], set()), scalar.end()


def _items(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        at = _skip(text, at)
        if text[at] == "]":
            return found, at + 1
        if text[at] in ",}":
            at += 1
            continue
        value, at = _value(text, at, depth)
        found.append(value)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    if found.end() == len(text):
        raise _Incomplete
    return found.end()
