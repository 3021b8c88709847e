"""Formats that need no template to be read off: the one of our own tool prompt."""

from ggserve.chat.format import CallsFormat

# What `tool_template` tells models whose template knows no tools (NousResearch, Hermes-Function-Calling):
#   <tool_call>
#   {"name": "get_weather", "arguments": {"city": "Paris"}}
#   </tool_call>
HERMES = CallsFormat(
    first='<tool_call>\n{"name": "',
    after_name='", "arguments": ',
    next='}\n</tool_call>\n<tool_call>\n{"name": "',
    last="}\n</tool_call>",
    after_text="\n",
)
