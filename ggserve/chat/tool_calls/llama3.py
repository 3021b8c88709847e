"""Bare JSON: Llama 3.1, 3.2 and 3.3."""

from ggserve.chat.tool_calls.format import CallFormat

LLAMA3 = CallFormat(
    opening="", before_name='{"name": "', after_name='", "parameters": ', after_arguments="}", between="; "
)


def is_llama3(template: str) -> bool:
    """Whether a template's calls look so."""
    return "<|start_header_id|>" in template and '"parameters": dictionary' in template
