"""Gives a chat template that knows no tools a way to say them: in the system message, calls in <tool_call> tags.

The wording is the one that Hermes 2 Pro made common (NousResearch, Hermes-Function-Calling), which many models know.
"""

import re

_TOOLS = """\
{%- set ggserve = namespace(messages=[], system="") -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ggserve.system = ggserve.system + (message['content'] or '') + "\\n\\n" -%}
{%- elif message['role'] == 'tool' -%}
{%- set ggserve.messages = ggserve.messages + [{'role': 'user', 'content':
    '<tool_response>\\n' + (message['content'] or '') + '\\n</tool_response>'}] -%}
{%- elif message['tool_calls'] -%}
{%- set calls = namespace(text=message['content'] or '') -%}
{%- for call in message['tool_calls'] -%}
{%- set calls.text = calls.text + '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": '
    + (call['function']['arguments'] if call['function']['arguments'] is string
       else call['function']['arguments'] | tojson) + '}\\n</tool_call>' -%}
{%- endfor -%}
{%- set ggserve.messages = ggserve.messages + [{'role': message['role'], 'content': calls.text}] -%}
{%- else -%}
{%- set ggserve.messages = ggserve.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- if tools -%}
{%- set ggserve.system = ggserve.system + "You may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>" -%}
{%- for tool in tools -%}
{%- set ggserve.system = ggserve.system + "\\n" + (tool | tojson) -%}
{%- endfor -%}
{%- set ggserve.system = ggserve.system + "\\n</tools>\\n\\nFor each function call, return a json object with function "
    "name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' -%}
{%- endif -%}
{%- if ggserve.system -%}
{%- set ggserve.messages = [{'role': 'system', 'content': ggserve.system.strip()}] + ggserve.messages -%}
{%- endif -%}
{%- set messages = ggserve.messages -%}
"""


def with_tools(template: str, *, replaces: bool = False) -> str:
    """The template as it is if it knows tools, else one that writes tools, calls and results into messages first; with
    `replaces` in any case."""
    if replaces:
        return _TOOLS + "{%- set tools = none -%}\n" + template
    return template if re.search(r"\btools\b", template) else _TOOLS + template
