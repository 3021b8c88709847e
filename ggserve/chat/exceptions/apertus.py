"""Apertus, whose template takes thoughts only in blocks of its own kind, and which calls from within a thought:

<|inner_prefix|>Thought.<|inner_suffix|>Text.
<|inner_prefix|>Thought.<|tools_prefix|>[{"look": {"at": "x"}}]<|tools_suffix|>
"""

from dataclasses import replace

from ggserve.chat.format import ChatFormat, ThoughtFormat

_OPEN, _CLOSE = "<|inner_prefix|>", "<|inner_suffix|>"


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return _OPEN in source and _CLOSE in source and "Deliberation: " in source


def corrected(form: ChatFormat) -> ChatFormat:
    """The format with thoughts."""
    thought = ThoughtFormat(
        open=_OPEN, close=_CLOSE, message_field="content", on={"enable_thinking": True}, calls_close=True
    )
    return replace(form, thought=thought)
