"""Writes an answer in a chat format: thought, text, calls. Used to prove a format, and to begin answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ggserve.chat.format import ID, INDEX, NAME, ArgumentsFormat, CallsFormat, ChatFormat

_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
Call = tuple[str, Mapping[str, Any], str]  # name, arguments, id


def write_answer(form: ChatFormat, thought: str, text: str, calls: Sequence[Call]) -> str:
    """Return the whole answer, from the end of the generation prompt if that opens no thought."""
    written = ""
    if form.thought and thought:
        to_call = form.thought.close_to_call
        close = form.thought.close if text or not calls or to_call is None else to_call
        written = form.thought.open + thought + close
    if text:
        written += form.text_open + text + form.text_close
    if calls and form.calls:
        written += (form.calls.after_text if text else "") + write_calls(form.calls, calls)
    return written


def write_calls(form: CallsFormat, calls: Sequence[Call]) -> str:
    """Return the calls alone."""
    written = ""
    for index, (name, arguments, call_id) in enumerate(calls):
        before = form.first if index == 0 else form.next or ""
        last_id = calls[index - 1][2] if index else call_id
        ends_with_id = index > 0 and ID in before.partition("}")[0]
        written += _filled(before, last_id if ends_with_id else call_id, index, name) + name
        written += _filled(form.after_name, call_id, index, name) + _arguments(form.arguments, arguments)
    return written + _filled(form.last, calls[-1][2], len(calls) - 1, calls[-1][0])


def _filled(literal: str, call_id: str, index: int, name: str) -> str:
    return literal.replace(ID, call_id).replace(INDEX, str(index)).replace(NAME, name)


def _arguments(form: ArgumentsFormat, arguments: Mapping[str, Any]) -> str:
    if form.syntax == "json":
        return json.dumps(arguments, ensure_ascii=False)
    if not arguments:
        return form.empty
    return form.open + form.between.join(_parameter(form, *item) for item in arguments.items()) + form.close


def _parameter(form: ArgumentsFormat, key: str, value: Any) -> str:
    written = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return f"{key}{form.after_key}{written if form.quote else value}"
    after_key = form.after_key if form.after_key_other is None else form.after_key_other
    return f"{key}{after_key.replace(ID, _TYPES[type(value)])}{written}"


def written_alike(text: str, expected: str) -> bool:
    """Return whether a text contains another, ignoring white space."""
    one, other = "".join(text.split()), "".join(expected.split())
    return bool(other) and other in one
