"""Translate regular expressions into rules, for grammar formats without them, with Python's own parser.

Syntax that Python and Rust (the dialect of llguidance) do not share is rejected by name.
"""

import re
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Any

from ggserve.grammar.rules import (
    ANY,
    LAST_CHARACTER,
    NOTHING,
    Characters,
    Ranges,
    Repeat,
    Rule,
    choice,
    joined,
    sequence,
    without,
)

_parser: Any = re._parser  # type: ignore[attr-defined]  # the parser of `re`
_CATEGORIES: dict[str, Ranges] = {
    "DIGIT": ((48, 57),),
    "WORD": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "SPACE": ((9, 13), (32, 32)),
}
# A superset of these classes in every Unicode version, so the remaining characters surely belong to none.
_AT_MOST: dict[str, Ranges] = {
    "DIGIT": ((48, 57), (0x660, LAST_CHARACTER)),
    "WORD": ((48, 57), (65, 90), (95, 95), (97, 122), (0x80, LAST_CHARACTER)),
    "SPACE": ((9, 13), (28, 32), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x206F), (0x3000, 0x3000)),
}
_REFUSED = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a back-reference",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive quantifier",
}
_MOST_PARTS = 20_000

Write = Callable[[Ranges], Rule]  # returns the rule for one of these characters in an answer


def regex_rule(pattern: str, write: Write = Characters, *, anywhere: bool = False) -> Rule:
    """Return the rule for texts that match as a whole or, with `anywhere`, contain a match, like JSON's `pattern`.
    Raises ValueError naming the unsupported syntax."""
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the regular expression {pattern[:60]!r} is not supported: {error}") from error
    if parsed.state.flags & ~re.UNICODE:
        raise ValueError(f"flags in the regular expression {pattern[:60]!r} are not supported")
    return _Translator(write, anywhere).whole(parsed)


class _Translator:
    def __init__(self, write: Write, anywhere: bool) -> None:
        self._write = write
        self._around = Repeat(write(ANY)) if anywhere else NOTHING
        self._parts = 0

    def whole(self, parsed: Items[Any]) -> Rule:
        """Translate an expression, or alternatives, with anchors only at the ends."""
        items = list(parsed)
        begins = bool(items) and _is_anchor(items[0], "AT_BEGINNING", "AT_BEGINNING_STRING")
        ends = len(items) > begins and _is_anchor(items[-1], "AT_END", "AT_END_STRING")
        inner = items[begins : len(items) - ends]
        if len(inner) == 1 and not ends:
            operation, argument = str(inner[0][0]), inner[0][1]
            if operation == "SUBPATTERN" and not begins:
                return self.whole(argument[3])
            if operation == "BRANCH":  # the anchor was the alternatives' common prefix
                return choice(self.whole([*items[:begins], *option]) for option in argument[1])
        return sequence(NOTHING if begins else self._around, self._sequence(inner), NOTHING if ends else self._around)

    def _sequence(self, items: Items[Any]) -> Rule:
        return sequence(*(self._item(str(operation), argument) for operation, argument in items))

    def _item(self, operation: str, argument: Any) -> Rule:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ValueError("the regular expression is too long")
        match operation:
            case "LITERAL":
                return self._write(((argument, argument),))
            case "NOT_LITERAL":
                return self._write(without(ANY, ((argument, argument),)))
            case "ANY":
                return self._write(without(ANY, ((10, 10),)))
            case "IN":
                return self._write(_class(argument))
            case "BRANCH":
                return choice(self._sequence(option) for option in argument[1])
            case "SUBPATTERN":
                if argument[1] or argument[2]:
                    raise ValueError("flags inside a regular expression are not supported")
                return self._sequence(argument[3])
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = argument
                bounded = None if most is _parser.MAXREPEAT else int(most)
                return Repeat(self._sequence(inner), int(least), bounded)
        what = _REFUSED.get(operation, "an anchor in the middle or a word boundary")
        raise ValueError(f"{what} in a regular expression is not supported")


def _is_anchor(item: Any, *names: str) -> bool:
    return str(item[0]) == "AT" and str(item[1]) in names


def _class(items: Items[Any]) -> Ranges:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    ranges: list[tuple[int, int]] = []
    for operation, argument in items[negated:]:
        match str(operation):
            case "LITERAL":
                ranges.append((argument, argument))
            case "RANGE":
                ranges.append(argument)
            case _:
                kind = str(argument).removeprefix("CATEGORY_")
                name, opposite = kind.removeprefix("NOT_"), kind.startswith("NOT_")
                known = (_AT_MOST if opposite != negated else _CATEGORIES)[name]
                ranges += without(ANY, known) if opposite else known
    return without(ANY, joined(ranges)) if negated else joined(ranges)
