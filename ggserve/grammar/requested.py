"""Translate a request's grammar into rules."""

import re
from functools import lru_cache

import orjson

from ggserve.generation import Grammar
from ggserve.grammar.lark import names_tokens
from ggserve.grammar.rules import GBNF, Lark, Literal, Regex, Rule, Rules, choice
from ggserve.grammar.schemas import check_regex_length, schema_rule

_MAX_TEXT = 1 << 20  # characters of a grammar in a request
_MAX_GBNF = 32_768  # characters, and rules: the conversion time grows quadratically
_MAX_GBNF_RULES = 128


@lru_cache(maxsize=16)
def rules(grammar: Grammar) -> Rules:
    """Return the complete grammar. Raises ValueError or TypeError."""
    return grammar.rules if grammar.rules is not None else Rules(answer_rule(grammar))


def answer_rule(grammar: Grammar) -> Rule:
    """Return the rule for an answer under a user's grammar. Raises ValueError or TypeError."""
    text = grammar.text
    if len(text) > _MAX_TEXT:
        raise ValueError(f"it has {len(text)} characters; the limit is {_MAX_TEXT}")
    match grammar.kind:
        case "json_schema":
            return schema_rule(orjson.loads(text))
        case "choice":
            choices = orjson.loads(text)
            if not (isinstance(choices, list) and choices and all(isinstance(each, str) for each in choices)):
                raise ValueError("it is not a list of strings")
            return choice(map(Literal, choices))
        case "regex":
            check_regex_length(text)
            return Regex(_unanchored(text))
        case "gbnf":
            if len(text) > _MAX_GBNF or text.count("::=") > _MAX_GBNF_RULES:
                raise ValueError(f"the limits are {_MAX_GBNF} characters and {_MAX_GBNF_RULES} rules")
            return GBNF(text)
        case "lark":
            if names_tokens(text):
                raise ValueError("<[...]> names tokens by id, which is not supported: use their texts")
            return Lark(text)
    raise ValueError(f"{grammar.kind} is not a text grammar")


def _unanchored(regex: str) -> str:
    """Return a regular expression for the whole answer without its redundant anchors."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\$\Z", r"\1", regex.removeprefix("^"))
