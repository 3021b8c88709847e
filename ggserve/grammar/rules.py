"""Grammars as trees of rules, from which `lark` and `gbnf` write the engines' formats."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Sequenced
from dataclasses import dataclass
from typing import TypeAlias

LAST_CHARACTER = 0x10FFFF
MOST_REPETITIONS = 2000  # llama.cpp's own limit
_SURROGATES = (0xD800, 0xDFFF)
Ranges = tuple[tuple[int, int], ...]  # code points, sorted, both ends included


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker of the chat format. Its control tokens are matched as tokens if the engine can distinguish them from
    text."""

    text: str


@dataclass(frozen=True, slots=True)
class Characters:
    """One character in these ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    """One rule after the other."""

    items: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these rules."""

    options: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The rule `least` to `most` times; None: no limit."""

    rule: "Rule"
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a rule in `Rules.named`."""

    name: str


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A rule without references that is best matched as one regular expression."""

    rule: "Rule"


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that matches a regular expression as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Schema:
    """JSON under a schema; see `schemas`."""

    text: str  # the schema, as JSON
    lenient: bool = False  # ignore unsupported keywords
    tool: str | None = None  # the function whose arguments it describes
    loose: bool = False  # if the schema is not supported, use `spare`
    spare: str = '{"type":"object"}'  # the fallback schema

    def loosened(self) -> "Schema":
        """Return the fallback schema."""
        return Schema(self.spare)


@dataclass(frozen=True, slots=True)
class TextBefore:
    """Text that begins with none of `starts`, up to and including the first marker."""

    marker: Marker
    starts: tuple[Marker, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Text that begins with none of `starts` and does not contain the marker."""

    without: Marker | None = None
    starts: tuple[Marker, ...] = ()


@dataclass(frozen=True, slots=True)
class Lark:
    """A user's grammar in llguidance's dialect of Lark."""

    text: str


@dataclass(frozen=True, slots=True)
class GBNF:
    """A user's grammar in GBNF."""

    text: str


Rule: TypeAlias = (
    Literal
    | Marker
    | Characters
    | Sequence
    | Choice
    | Repeat
    | Reference
    | Lexeme
    | Regex
    | Schema
    | TextBefore
    | Text
    | Lark
    | GBNF
)


@dataclass(frozen=True, slots=True)
class Rules:
    """A complete grammar: the rule for the answer, and the rules that it refers to."""

    start: Rule
    named: tuple[tuple[str, Rule], ...] = ()


NOTHING: Rule = Sequence(())


def schemas(rules: Rules) -> list[Schema]:
    """Return the schemas in a grammar, without duplicates."""
    found: dict[Schema, None] = {}
    unseen = [rules.start, *(rule for _, rule in rules.named)]
    while unseen:
        match unseen.pop():
            case Schema() as schema:
                found[schema] = None
            case Sequence(inner) | Choice(inner):
                unseen += inner
            case Repeat(repeated):
                unseen.append(repeated)
    return list(found)


def with_schemas(rules: Rules, changes: Mapping[Schema, Rule]) -> Rules:
    """Return the grammar with these schemas replaced."""

    def changed(rule: Rule) -> Rule:
        match rule:
            case Schema():
                return changes.get(rule, rule)
            case Sequence(items):
                return Sequence(tuple(map(changed, items)))
            case Choice(options):
                return Choice(tuple(map(changed, options)))
            case Repeat(inner, least, most):
                return Repeat(changed(inner), least, most)
        return rule

    return Rules(changed(rules.start), tuple((name, changed(rule)) for name, rule in rules.named))


def sequence(*items: Rule) -> Rule:
    """Return the rules one after the other, without empty ones."""
    flat = tuple(item for item in items if item != NOTHING)
    return flat[0] if len(flat) == 1 else Sequence(flat)


def choice(options: Iterable[Rule]) -> Rule:
    """Return the choice between these rules, without duplicates."""
    distinct = tuple(dict.fromkeys(options))
    return distinct[0] if len(distinct) == 1 else Choice(distinct)


def optional(rule: Rule) -> Rule:
    return Repeat(rule, 0, 1)


def in_order(
    items: Sequenced[tuple[Rule, bool]],
    separator: Rule,
    named: Callable[[Rule], Rule],
    *,
    opening: Rule = NOTHING,
    closing: Rule = NOTHING,
    empty: Rule = NOTHING,
) -> Rule:
    """Return the rule of items in order, each with whether it is required. `opening` comes before the first item that
    occurs, and `closing` after the last; `empty` stands for no items. `named` gives a name to a rule that is used
    twice."""
    begun = closing
    for item, required in reversed([(named(item), required) for item, required in items]):
        after = named(begun)
        first = sequence(opening, item, after)
        if required:
            begun, empty = sequence(separator, item, after), first
        else:
            begun, empty = sequence(optional(sequence(separator, item)), after), choice([first, named(empty)])
    return empty


def repeated(rule: Rule, least: int, most: int | None) -> Rule:
    """Return the rule repeated. An upper bound is limited to MOST_REPETITIONS. Raises ValueError if the lower bound is
    higher."""
    if least > MOST_REPETITIONS:
        raise ValueError(f"more than {MOST_REPETITIONS} repetitions are not supported")
    if most is not None and most < least:
        raise ValueError(f"the minimum {least} is more than the maximum {most}")
    return Repeat(rule, least, None if most is None else min(most, MOST_REPETITIONS))


def one_of(characters: str) -> Characters:
    return Characters(joined((ord(each), ord(each)) for each in characters))


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges sorted, with adjacent ranges merged."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def without(ranges: Ranges, excluded: Ranges) -> Ranges:
    """Return the characters in `ranges` that are not in `excluded`."""
    left = list(ranges)
    for low, high in excluded:
        left = [
            part
            for start, end in left
            for part in (
                ((start, min(end, low - 1)), (max(start, high + 1), end)) if start <= high else ((start, end),)
            )
            if part[0] <= part[1]
        ]
    return tuple(left)


ANY = without(((0, LAST_CHARACTER),), (_SURROGATES,))
DIGIT = one_of("0123456789")
SPACE = one_of(" \n\r\t")
