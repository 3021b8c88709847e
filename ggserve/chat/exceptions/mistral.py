"""Mistral's models. They leave out ids that their templates write:

[TOOL_CALLS]look[ARGS]{"at": "x"}[TOOL_CALLS]find[CALL_ID]abcdefghi[ARGS]{}
[TOOL_CALLS][{"name": "look", "arguments": {"at": "x"}}, {"name": "find", "arguments": {}}]
"""

from dataclasses import replace

from ggserve.chat.format import ID, ChatFormat

_ID = f', "id": "{ID}"'


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "[TOOL_CALLS]" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format that also reads calls without ids."""
    calls = form.calls
    if calls is None:
        return form
    if ID in calls.after_name:
        return replace(form, calls=replace(calls, after_name="[ARGS]", others=((calls.first, calls.after_name),)))
    following = None if calls.next is None else calls.next.replace(_ID, "")
    return replace(form, calls=replace(calls, last=calls.last.replace(_ID, ""), next=following))
