"""Both languages of rules mean the same: Lark accepts what GBNF accepts, and JSON follows its schema."""

import asyncio
import contextlib
import json
import random

import jsonschema
import pytest
from llguidance.gbnf_to_lark import gbnf_to_lark

from ggserve.generation import Grammar, schema_grammar
from ggserve.grammar.gbnf import gbnf
from ggserve.grammar.matcher import Grammars, Matcher, byte_vocabulary
from ggserve.grammar.requested import rules
from tests.grammar.schemas import schema

COUNT = 120


@pytest.fixture(scope="module")
def grammars():
    grammars = Grammars(byte_vocabulary())
    yield grammars
    grammars.close()


def matcher(grammars: Grammars, grammar: Grammar) -> Matcher:
    return asyncio.run(grammars.matcher(grammar))[0]


def in_gbnf(grammar: Grammar) -> Grammar:
    """The same, by way of GBNF, in the words that llguidance's converter knows."""
    return Grammar("lark", gbnf_to_lark(gbnf(rules(grammar))).replace("//", ""))


def accepts(grammars: Grammars, grammar: Grammar, text: str) -> bool:
    answer = matcher(grammars, grammar)
    return answer.take_text(text) and answer.complete


def at_random(answer: Matcher, draw: random.Random) -> str | None:
    """Return an answer that ends by itself, or None if it grows too long."""
    text = bytearray()
    while not answer.ended and not (answer.complete and draw.random() < 0.3):
        allowed = list(answer.allowed()[:128].nonzero()[0])
        if len(text) > 2000 or not allowed:
            return None
        closing = [byte for byte in allowed if chr(byte) in '"]}0123']
        byte = draw.choice(closing if closing and draw.random() < 0.5 else allowed)
        answer.take([int(byte)])
        text.append(byte)
    return text.decode()


@pytest.mark.parametrize("part", range(4))
def test_what_gbnf_accepts_the_schema_and_lark_accept(grammars: Grammars, part: int):
    written = found = 0
    for number in range(part, COUNT, 4):
        wanted = schema(number)
        grammar = schema_grammar(wanted)
        with contextlib.suppress(ValueError):
            narrow = in_gbnf(grammar)
            written += 1
            for _ in range(3):
                text = at_random(matcher(grammars, narrow), random.Random(number))
                if text is not None:
                    found += 1
                    jsonschema.Draft202012Validator(wanted).validate(json.loads(text))
                    assert accepts(grammars, grammar, text), text
    assert written > COUNT / 4 * 0.8
    assert found > written
