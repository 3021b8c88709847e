"""Granite 3.3, whose template only says how the model calls:

<|tool_call|>[{"name": "look", "arguments": {"at": "x"}}, {"name": "find", "arguments": {}}]
"""

from dataclasses import replace

from ggserve.chat.format import CallsFormat, ChatFormat


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "respond only with <|tool_call|> followed by a JSON list" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """The format with calls."""
    calls = CallsFormat(
        first='<|tool_call|>[{"name": "', after_name='", "arguments": ', next='}, {"name": "', last="}]"
    )
    return replace(form, calls=calls, calls_as_text=form.calls is None)
