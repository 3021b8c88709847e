"""How models write calls of functions. One file for each format that is read here; `reader` reads them all."""

import re

from ggserve.chat.tool_calls.format import CallFormat
from ggserve.chat.tool_calls.functionary import FUNCTIONARY, is_functionary
from ggserve.chat.tool_calls.hermes import HERMES, is_hermes
from ggserve.chat.tool_calls.llama3 import LLAMA3, is_llama3
from ggserve.chat.tool_calls.mistral import mistral_format

__all__ = ["HERMES", "CallFormat", "call_format"]


def call_format(template: str, *, controls: bool = True) -> CallFormat | None:
    """The format of a chat template that knows tools; None: one that is not read here, as are those with control tokens
    where `controls` do not show in answers."""
    if is_functionary(template):
        return FUNCTIONARY
    if is_llama3(template):
        return LLAMA3
    if mistral := mistral_format(template):
        return mistral if controls else None
    if is_hermes(template) or not re.search(r"\btools\b", template):
        return HERMES  # as `tool_template` says it
    return None
