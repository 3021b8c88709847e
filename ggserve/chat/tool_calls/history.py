"""Calls that a conversation has in it already, as templates want them."""

import hashlib
import json
import re
from typing import Any

from ggserve.errors import InvalidRequest
from ggserve.messages import nests_deeper

_DEEPEST = 100  # lists and objects within each other, as in a request's body
_SHORT_ID = 9  # characters
_WANTS_SHORT_IDS = re.compile(rf"\|\s*length\s*!=\s*{_SHORT_ID}\b")


def wants_short_ids(template: str) -> bool:
    """Whether a template refuses ids of calls that are not as short as Mistral's."""
    return bool(_WANTS_SHORT_IDS.search(template))


def with_short_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with ids of calls and their results that Mistral's templates take, whoever made them."""
    return [
        {
            **message,
            **({"tool_call_id": _short(message["tool_call_id"])} if message.get("tool_call_id") else {}),
            **(
                {"tool_calls": [_with_short_id(call) for call in calls]} if (calls := message.get("tool_calls")) else {}
            ),
        }
        for message in messages
    ]


def _with_short_id(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "id": _short(call["id"])} if call.get("id") else call


def _short(name: str) -> str:
    if len(name) == _SHORT_ID and name.isalnum():
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID]


def with_parsed_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with the arguments of their calls as objects: templates write those as JSON. What is no JSON object
    stays text. Raises InvalidRequest where they are nested too deep."""
    return [
        {**message, "tool_calls": [_parsed(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _parsed(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    except RecursionError:
        raise _too_deep() from None
    if nests_deeper(arguments, _DEEPEST):
        raise _too_deep()
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The arguments of a tool call are nested more than {_DEEPEST} levels deep.")
