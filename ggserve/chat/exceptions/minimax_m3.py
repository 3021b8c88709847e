"""MiniMax M3. Its arguments are XML elements, also for nested values, and each tag comes after a namespace token:

]<]minimax[>[<tool_call>
]<]minimax[>[<invoke name="search">]<]minimax[>[<tags>]<]minimax[>[<item>a]<]minimax[>[</item>]<]minimax[>[</tags>]<]minimax[>[</invoke>
]<]minimax[>[</tool_call>
"""  # noqa: E501

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggserve.chat.format import ArgumentsFormat, CallsFormat, ChatFormat
from ggserve.chat.values import json_types, typed
from ggserve.grammar.rules import NOTHING, Literal, Marker, Repeat, Rule, TextBefore, sequence

NAMESPACE = "]<]minimax[>["
END = "</invoke>"
_TAG = re.compile(rf"{re.escape(NAMESPACE)}<(/?)([^<>]{{1,256}})>")
_DEEPEST = 64


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return NAMESPACE in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with calls."""
    invoke, end = f'{NAMESPACE}<invoke name="', f"{NAMESPACE}</invoke>\n"
    calls = CallsFormat(
        first=f"{NAMESPACE}<tool_call>\n{invoke}",
        after_name='">',
        next=end + invoke,
        last=f"{end}{NAMESPACE}</tool_call>",
        after_text="\n",
        arguments=ArgumentsFormat(syntax="minimax"),
    )
    return replace(form, calls=calls)


NAMES_SORTED = False
SEPARATOR = NOTHING
_TAG_FOLLOWS = Marker(NAMESPACE)


def member(name: str, value: Rule) -> Rule:
    """Return the rule of an element. A value ends with the token in front of the closing tag."""
    return sequence(_TAG_FOLLOWS, Literal(f"<{name}>"), value, Literal(f"</{name}>"))


def object_value(members: Rule) -> Rule:
    """Return the rule of an object inside the arguments."""
    return sequence(members, _TAG_FOLLOWS)


def list_value(item: Rule) -> Rule:
    """Return the rule of a list of any length except the empty one, which reads like an empty string."""
    return sequence(Repeat(member("item", item), 1), _TAG_FOLLOWS)


def text_value(text: str | None) -> Rule:
    """Return the rule of a string: this one, or any."""
    return TextBefore(_TAG_FOLLOWS) if text is None else sequence(Literal(text), _TAG_FOLLOWS)


def scalar_value(scalar: Rule) -> Rule:
    """Return the rule of any other value, as JSON."""
    return sequence(scalar, _TAG_FOLLOWS)


def end(text: str) -> Rule:
    """The text after the arguments. Its tag is separate because it begins like the tag of another member."""
    return sequence(_TAG_FOLLOWS, Marker(text.removeprefix(NAMESPACE)))


def arguments(text: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
    """Parse the arguments at the beginning of a text; return them and where they end, or None if they are
    incomplete."""
    stack: list[tuple[str, list[tuple[str, Any]], int]] = [("", [], 0)]
    for tag in _TAG.finditer(text):
        closes, name = tag[1], tag[2]
        if not closes:
            if len(stack) < _DEEPEST:
                stack.append((name, [], tag.end()))
        elif name == "invoke":
            return {key: _typed(value, _inner(schema, key)) for key, value in stack[0][1]}, tag.start()
        elif stack[-1][0] == name:
            _, members, start = stack.pop()
            stack[-1][1].append((name, members or text[start : tag.start()]))
    return None


def _typed(value: Any, schema: Any) -> Any:
    """Convert members to an object or a list, and a text to a value of the schema's type."""
    schema = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, list):
        if all(name == "item" for name, _ in value) and schema.get("type") != "object":
            return [_typed(item, schema.get("items")) for _, item in value]
        return {name: _typed(item, _inner(schema, name)) for name, item in value}
    return typed(value, json_types(schema))


def _inner(schema: Mapping[str, Any], key: str) -> Any:
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, Mapping) else None
