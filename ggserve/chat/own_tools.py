"""ggserve's own way to describe tools to a model whose template knows none: in the system message, with calls in
<tool_call> tags.

The wording is the one that Hermes 2 Pro made common (NousResearch, Hermes-Function-Calling), which many models know.
"""

import json
from collections.abc import Sequence
from typing import Any

from ggserve.chat.format import CallsFormat
from ggserve.chat.writing import write_calls

# <tool_call>
# {"name": "get_weather", "arguments": {"city": "Paris"}}
# </tool_call>
HERMES = CallsFormat(
    first='<tool_call>\n{"name": "',
    after_name='", "arguments": ',
    next='}\n</tool_call>\n<tool_call>\n{"name": "',
    last="}\n</tool_call>",
    after_text="\n",
)
_PROMPT = """\
You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def with_own_tools(messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None) -> list[dict[str, Any]]:
    """Return the messages with tools, calls and results as texts. Only the leading system message changes."""
    told = [_told(message) for message in messages]
    if not tools:
        return told
    prompt = _PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if told and told[0]["role"] == "system":
        return [{**told[0], "content": f"{told[0]['content']}\n\n{prompt}".strip()}, *told[1:]]
    return [{"role": "system", "content": prompt}, *told]


def _told(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content'] or ''}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    text = message["content"] or ""
    written = write_calls(HERMES, [(call["function"]["name"], call["function"]["arguments"], "") for call in calls])
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": f"{text}{HERMES.after_text if text else ''}{written}"}
