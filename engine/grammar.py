"""What an answer is held to becomes a grammar of llguidance, which llama.cpp has inside too, or an error that says why.

There is one form for all kinds and both engines: llguidance's dialect of Lark. Where llama.cpp cannot follow a grammar
it logs why, and the answer is free text: so it is checked here first.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from engine.contract import Grammar
from engine.errors import InvalidRequest

MAX_BYTES = 128 << 10  # of a grammar's text; the time to compile grows with its square, to a quarter of a second here

_HEAD = "%llguidance {}\n"
# JSON as most models write it. `oneOf` is taken as `anyOf`: an answer fits one of the schemas, and may fit others too.
_JSON = {"coerce_one_of": True, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "choice"}


def schema_grammar(schema: Mapping[str, Any]) -> Grammar:
    """JSON of a schema. Raises InvalidRequest where the schema cannot be written as JSON."""
    try:
        return Grammar("json_schema", orjson.dumps(schema).decode())
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"No answer can be held to the JSON schema: {error}") from error


def checked_lark(grammar: Grammar) -> str:
    """The grammar in Lark. Blocks for as long as compiling takes. Raises InvalidRequest."""
    lark, problem = _compiled(grammar)
    if problem:
        name = _NAMES.get(grammar.kind, "grammar")
        raise InvalidRequest(f"No answer can be held to the {name}: {' '.join(problem.split())}")
    return lark


@lru_cache(maxsize=32)
def _compiled(grammar: Grammar) -> tuple[str, str]:
    """The grammar in Lark, and what is wrong with it."""
    from llguidance import LLMatcher  # here, since most servers never get a grammar, and it takes time to start

    if (size := len(grammar.text.encode(errors="replace"))) > MAX_BYTES:
        return "", f"it has {size} bytes, and {MAX_BYTES} may be"
    try:
        lark = _HEAD + _lark(grammar)
        return lark, LLMatcher.validate_grammar(lark)
    except (TypeError, ValueError, RecursionError) as error:
        return "", str(error)


def _lark(grammar: Grammar) -> str:
    from llguidance import regex_to_lark
    from llguidance.gbnf_to_lark import gbnf_to_lark

    text = grammar.text
    match grammar.kind:
        case "json_schema":
            return f"start: %json {orjson.dumps({'x-guidance': _JSON, **orjson.loads(text)}).decode()}"
        case "regex":
            return f"start: /{regex_to_lark(_unanchored(text))}/"
        case "choice":
            choices = orjson.loads(text)
            if not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
                raise ValueError("it is not a list of texts")
            return f"start: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in choices)}"
        case "gbnf":
            try:
                return str(gbnf_to_lark(text))
            except Exception as error:  # it raises this very class
                raise ValueError(str(error)) from error
        case "lark":
            return text.removeprefix(_HEAD)


def _unanchored(regex: str) -> str:
    """A regular expression that the whole answer fits, without the anchors that say so."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\$\Z", r"\1", regex.removeprefix("^"))
