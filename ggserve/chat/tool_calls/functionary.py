"""`<function=name>` around the arguments: Functionary 3.1, and Llama 3.1 fine-tunes after it."""

import re

from ggserve.chat.tool_calls.format import CallFormat

FUNCTIONARY = CallFormat(
    opening="<function=",
    before_name="",
    after_name=">",
    closing="</function>",
    head=re.compile(r"(?P<name>[\w.-]{1,64})>\s*(?=\{)"),
    wrapped=False,
)


def is_functionary(template: str) -> bool:
    """Whether a template's calls look so; with `<parameter=` they are Qwen3-Coder's."""
    return "<function=" in template and "</function>" in template and "<parameter=" not in template
