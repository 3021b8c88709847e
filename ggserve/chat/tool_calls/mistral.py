"""`[TOOL_CALLS]` before a list of JSON (Mistral 7B 0.3 to Small 3.1), or before each name (Small 3.2 and later)."""

import re

from ggserve.chat.tool_calls.format import CallFormat

_OPENING = "[TOOL_CALLS]"

MISTRAL_LIST = CallFormat(
    controls=(_OPENING,),
    opening=_OPENING,
    before_name='{"name": "',
    after_name='", "arguments": ',
    after_arguments="}",
    between=", ",
    listed=True,
)
MISTRAL_NAMES = CallFormat(
    controls=(_OPENING, "[CALL_ID]", "[ARGS]"),
    opening=_OPENING,
    before_name="",
    after_name="[ARGS]",
    head=re.compile(r"\s*(?P<name>[\w.-]{1,64})(?:\[CALL_ID\]\w{1,64})?\[ARGS\]\s*(?=\{)"),
    wrapped=False,
)


def mistral_format(template: str) -> CallFormat | None:
    """The one that a template's calls have, if any."""
    if _OPENING not in template:
        return None
    return MISTRAL_NAMES if "[ARGS]" in template else MISTRAL_LIST
