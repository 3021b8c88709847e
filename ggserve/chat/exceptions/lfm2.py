"""LFM2. Some of its templates write no calls although the models do:

<|tool_call_start|>[look(at="x", times=2), find()]<|tool_call_end|>
"""

from dataclasses import replace

from ggserve.chat.format import ArgumentsFormat, CallsFormat, ChatFormat


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "List of tools: " in source and "<|im_start|>" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with calls."""
    calls = CallsFormat(
        first="<|tool_call_start|>[",
        after_name="(",
        next="), ",
        last=")]<|tool_call_end|>",
        arguments=ArgumentsFormat(syntax="parameters", after_key="=", between=", ", quote='"'),
    )
    return replace(form, calls=calls, calls_as_text=form.calls is None)
