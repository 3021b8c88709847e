"""Mistral's models, which leave out ids that their templates write:

[TOOL_CALLS]look[ARGS]{"at": "x"}[TOOL_CALLS]find[CALL_ID]abcdefghi[ARGS]{}
"""

from dataclasses import replace

from ggserve.chat.format import ID, ChatFormat


def applies(source: str) -> bool:
    """Whether a template is one of them."""
    return "[TOOL_CALLS]" in source and "[ARGS]" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """The format that reads calls without ids too."""
    if form.calls is None or ID not in form.calls.after_name:
        return form
    return replace(
        form, calls=replace(form.calls, after_name="[ARGS]", others=((form.calls.first, form.calls.after_name),))
    )
