"""Numbers within bounds: the rules accept all numbers within them, and no others."""

import asyncio
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.generation import Grammar
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.grammar.numbers import decimals, integers
from ggserve.grammar.rules import Lexeme, Rule, Rules

GRAMMARS = Grammars(byte_vocabulary())


def accepts(rule: Rule, text: str) -> bool:
    matcher, _ = asyncio.run(GRAMMARS.matcher(Grammar("rules", "", None, Rules(Lexeme(rule)))))
    return matcher.take_text(text) and matcher.complete


@settings(deadline=None, max_examples=60)
@given(st.integers(-2000, 2000), st.integers(0, 3000), st.integers(-6000, 6000))
def test_integers(low: int, width: int, number: int):
    rule = integers(low, low + width)
    for each in (number, low, low + width, low - 1, low + width + 1):
        assert accepts(rule, str(each)) == (low <= each <= low + width)
    assert not accepts(rule, f"0{abs(low)}")


@settings(deadline=None, max_examples=30)
@given(st.integers(-2000, 2000), st.integers(-6000, 6000))
def test_integers_with_one_bound(bound: int, number: int):
    assert accepts(integers(bound, None), str(number)) == (number >= bound)
    assert accepts(integers(None, bound), str(number)) == (number <= bound)


DECIMALS = st.decimals(-20, 20, places=2)


@settings(deadline=None, max_examples=100)
@given(DECIMALS, DECIMALS, st.booleans(), st.booleans(), st.lists(st.decimals(-25, 25, places=3), min_size=3))
def test_decimals(low: Decimal, high: Decimal, low_open: bool, high_open: bool, numbers: list[Decimal]):
    low, high = sorted((low, high))
    if low == high and (low_open or high_open):
        return
    rule = decimals((low, low_open), (high, high_open))
    for number in (*numbers, low, high, low + Decimal("0.001"), high - Decimal("0.001")):
        text = f"{number:f}".rstrip("0").rstrip(".") if "." in f"{number:f}" else f"{number:f}"
        if text == "-0":
            continue
        within = (low < number or (low == number and not low_open)) and (
            number < high or (number == high and not high_open)
        )
        assert accepts(rule, text) == within, text
