"""Checks a JSON schema with the compiler that makes grammars of them, llguidance, before an answer must follow it.

llama.cpp has the same one inside. Where that refuses a schema it logs why, and the answer is free text.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from engine.errors import InvalidRequest

MAX_BYTES = 128 << 10  # of JSON; the time to compile grows with its square, to a quarter of a second here


def checked_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with options for the compiler. Blocks for as long as compiling takes. Raises InvalidRequest.

    `oneOf` is taken as `anyOf`: an answer fits one of the schemas, and may fit others too.
    """
    from llguidance import LLMatcher  # here, since most servers never get a schema, and it takes time to start

    schema = {"x-guidance": {"coerce_one_of": True}, **schema}
    try:
        text = orjson.dumps(schema)
        if len(text) > MAX_BYTES:
            raise InvalidRequest(f"The JSON schema has {len(text)} bytes, and {MAX_BYTES} may be.")
        problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text.decode()))
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise InvalidRequest(f"No answer can be held to the JSON schema: {' '.join(problem.split())}")
    return schema
