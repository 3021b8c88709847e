"""Rules for JSON numbers within bounds."""

from decimal import Decimal

from ggserve.grammar.rules import DIGIT, NOTHING, Literal, Repeat, Rule, choice, one_of, optional, sequence

_MOST_DIGITS = 15  # in an unbounded integer, and after a decimal point
_UNBOUNDED = Decimal(10**_MOST_DIGITS)

Bound = tuple[Decimal, bool] | None  # the bound, and whether it is exclusive

_DIGITS = Repeat(DIGIT, 0, _MOST_DIGITS)
_POSITIVE = sequence(one_of("123456789"), _DIGITS)
INTEGER = sequence(optional(Literal("-")), choice([Literal("0"), _POSITIVE]))
FRACTION = sequence(Literal("."), Repeat(DIGIT, 1, _MOST_DIGITS))
NUMBER = sequence(
    INTEGER,
    optional(FRACTION),
    optional(sequence(one_of("eE"), optional(one_of("+-")), Repeat(DIGIT, 1, 2))),
)


def integers(least: int | None, most: int | None) -> Rule:
    """Return the rule for the integers from `least` to `most`. Raises ValueError if there are none."""
    if least is None and most is None:
        return INTEGER
    low = min(-(10**_MOST_DIGITS), 10 * (most or 0)) if least is None else least
    high = max(10**_MOST_DIGITS, 10 * (least or 0)) if most is None else most
    if low > high:
        raise ValueError(f"no integer lies between {low} and {high}")
    options = []
    if low < 0:
        options.append(sequence(Literal("-"), _natural(max(1, -high), -low)))
    if high >= 0:
        options.append(_natural(max(low, 0), high))
    return choice(options)


def decimals(least: Bound, most: Bound) -> Rule:
    """Return the rule for the numbers between two bounds, without exponents. Raises ValueError if there are none."""
    low, low_open = least or (min(-_UNBOUNDED, 10 * (most[0] if most else Decimal(0))), False)
    high, high_open = most or (max(_UNBOUNDED, 10 * low), False)
    if low > high or (low == high and (low_open or high_open)):
        raise ValueError(f"no number lies between {low} and {high}")
    options = []
    if low < 0:
        nearest = (-high, high_open) if high < 0 else (Decimal(0), True)
        options.append(sequence(Literal("-"), _positive(*nearest, -low, low_open)))
    if high > 0 or (high == 0 and not high_open):
        options.append(_positive(*((low, low_open) if low >= 0 else (Decimal(0), False)), high, high_open))
    return choice(options)


def _natural(low: int, high: int) -> Rule:
    options = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        options.append(_between(str(first), str(last)))
    return choice(options)


def _between(low: str, high: str) -> Rule:
    """Return the rule for numbers from `low` to `high`, which have the same number of digits."""
    if low == "0" * len(low) and high == "9" * len(high):
        return Repeat(DIGIT, len(low), len(low)) if low else NOTHING
    if low[0] == high[0]:
        return sequence(Literal(low[0]), _between(low[1:], high[1:]))
    rest = len(low) - 1
    options = [sequence(Literal(low[0]), _between(low[1:], "9" * rest))]
    if middle := _digits_between(low[0], high[0]):
        options.append(sequence(middle, Repeat(DIGIT, rest, rest) if rest else NOTHING))
    options.append(sequence(Literal(high[0]), _between("0" * rest, high[1:])))
    return choice(options)


def _digits_between(low: str, high: str) -> Rule | None:
    """Return the rule for one digit strictly between two."""
    digits = "0123456789"[int(low) + 1 : int(high)]
    return one_of(digits) if digits else None


def _positive(low: Decimal, low_open: bool, high: Decimal, high_open: bool) -> Rule:
    first, low_fraction = _split(low)
    last, high_fraction = _split(high)
    options: list[Rule | None] = []
    if first == last:
        options.append(_after(first, _fraction_between(low_fraction, low_open, high_fraction, high_open)))
    else:
        options.append(_after(first, _fraction_from(low_fraction, low_open)))
        if first + 1 < last:
            options.append(sequence(_natural(first + 1, last - 1), optional(FRACTION)))
        options.append(_after(last, _fraction_to(high_fraction, high_open)))
    return _any(options)


def _split(number: Decimal) -> tuple[int, str]:
    """Return the digits before and after the decimal point."""
    whole, _, fraction = f"{number:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _any(options: list[Rule | None]) -> Rule:
    possible = [option for option in options if option is not None]
    if not possible:
        raise ValueError("no number lies between its bounds")
    return choice(possible)


def _after(whole: int, fraction: Rule | None) -> Rule | None:
    return None if fraction is None else sequence(Literal(str(whole)), fraction)


def _fraction_from(low: str, low_open: bool) -> Rule:
    if not low and not low_open:
        return optional(FRACTION)
    return sequence(Literal("."), _rest_from(low, low_open))


def _fraction_to(high: str, high_open: bool) -> Rule | None:
    if not high:
        return None if high_open else NOTHING
    return optional(sequence(Literal("."), _digits_to(high, high_open)))


def _fraction_between(low: str, low_open: bool, high: str, high_open: bool) -> Rule | None:
    whole = NOTHING if not low and not low_open and (high or not high_open) else None
    if not high:
        return whole
    inner = _rest_between(low, low_open, high, high_open)
    after = None if inner is None else sequence(Literal("."), inner)
    return _any([whole, after]) if whole is not None or after is not None else None


def _rest_from(low: str, low_open: bool) -> Rule:
    """Return the rule for digits, possibly none, that are at least `low` as a fraction."""
    if not low:
        return sequence(Repeat(Literal("0"), 0, _MOST_DIGITS), _POSITIVE) if low_open else _DIGITS
    options = [sequence(Literal(low[0]), _rest_from(low[1:], low_open))]
    if above := _digits_between(low[0], "10"):
        options.append(sequence(above, _DIGITS))
    return choice(options)


def _rest_to(high: str, high_open: bool) -> Rule | None:
    """Return the rule for digits, possibly none, that are at most `high` as a fraction."""
    if not high:
        return None if high_open else NOTHING
    return optional(_digits_to(high, high_open))


def _digits_to(high: str, high_open: bool) -> Rule:
    """Return the same rule with at least one digit; `high` is not empty and does not end in 0."""
    exact = _rest_to(high[1:], high_open)
    options = [None if exact is None else sequence(Literal(high[0]), exact)]
    if below := _digits_between("-1", high[0]):
        options.append(sequence(below, _DIGITS))
    return _any(options)


def _rest_between(low: str, low_open: bool, high: str, high_open: bool) -> Rule | None:
    """Return the rule for one or more digits from `low` to `high`, which is not empty."""
    first, last = low[:1] or "0", high[0]
    if first == last:
        ends = NOTHING if not low[1:] and not low_open and (high[1:] or not high_open) else None
        more = _rest_between(low[1:], low_open, high[1:], high_open) if high[1:] else None
        options = [option for option in (ends, more) if option is not None]
        return sequence(Literal(first), choice(options)) if options else None
    to_high = _rest_to(high[1:], high_open)
    middle = _digits_between(first, last)
    return _any(
        [
            sequence(Literal(first), _rest_from(low[1:], low_open)),
            None if middle is None else sequence(middle, _DIGITS),
            None if to_high is None else sequence(Literal(last), to_high),
        ]
    )
