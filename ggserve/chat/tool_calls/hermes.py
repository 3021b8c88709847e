"""`<tool_call>` around JSON: Hermes 2 Pro and 3, Qwen 2.5 and 3, and what `tool_template` tells other models."""

from ggserve.chat.tool_calls.format import CallFormat

HERMES = CallFormat(
    opening="<tool_call>",
    before_name='\n{"name": "',
    after_name='", "arguments": ',
    after_arguments="}\n",
    closing="</tool_call>",
    between="\n",
)


def is_hermes(template: str) -> bool:
    """Whether a template's calls look so; Qwen3-Coder and GLM write something else into the same tags."""
    return "<tool_call>" in template and "<function=" not in template and "<arg_key>" not in template
