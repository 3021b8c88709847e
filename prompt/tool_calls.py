"""Calls that an answer must make: the JSON schema that leaves no other answer, and the calls in such an answer."""

import json
from collections.abc import Sequence
from typing import Any


def calls_schema(functions: Sequence[dict[str, Any]], *, parallel: bool) -> dict[str, Any]:
    """A list of calls, `{"name": ..., "arguments": {...}}` each, at least one and without `parallel` exactly one.
    `functions` are OpenAI's tool objects."""
    calls = []
    for tool in functions:
        function = tool["function"]
        properties = {
            "name": {"const": function["name"]},
            "arguments": function.get("parameters") or {"type": "object"},
        }
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    limit = {} if parallel else {"maxItems": 1}
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **limit}


def read_calls(answer: str) -> list[tuple[str, str]]:
    """Name and arguments (as JSON) of each call in an answer of that schema; of the whole ones if it was cut off."""
    decoder = json.JSONDecoder()
    calls = []
    position = answer.find("{")
    while position >= 0:
        try:
            call, end = decoder.raw_decode(answer, position)
        except ValueError:
            break
        calls.append((call["name"], json.dumps(call["arguments"], ensure_ascii=False)))
        position = answer.find("{", end)
    return calls
