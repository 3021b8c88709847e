"""A grammar as a tree of rules, from which `lark` and `gbnf` write what the engines read."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Sequenced
from dataclasses import dataclass
from typing import TypeAlias

LAST_CHARACTER = 0x10FFFF
MOST_REPETITIONS = 2000  # of llama.cpp's own grammars
_SURROGATES = (0xD800, 0xDFFF)
Ranges = tuple[tuple[int, int], ...]  # of code points, sorted, both ends included


@dataclass(frozen=True, slots=True)
class Literal:
    """This text."""

    text: str


@dataclass(frozen=True, slots=True)
class Marker:
    """A text of the chat format, whose control tokens are meant as tokens where the engine tells them from text."""

    text: str


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of these ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    items: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these."""

    options: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The rule, `least` to `most` times; None: any number."""

    rule: "Rule"
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A rule of `Rules.named`."""

    name: str


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A rule without references that is best matched as one regular expression."""

    rule: "Rule"


@dataclass(frozen=True, slots=True)
class Regex:
    """Any text that fits a regular expression as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Schema:
    """JSON of a schema: see `schemas`."""

    text: str  # the schema, as JSON
    lenient: bool = False  # what cannot be followed is left out
    tool: str | None = None  # the function whose arguments it describes
    loose: bool = False  # where the schema cannot be followed, `spare` will do
    spare: str = '{"type":"object"}'  # a schema that takes its place

    def loosened(self) -> "Schema":
        """What takes its place."""
        return Schema(self.spare)


@dataclass(frozen=True, slots=True)
class TextBefore:
    """Any text that begins with none of `starts`, up to the first place where the marker stands, and the marker."""

    marker: Marker
    starts: tuple[Marker, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Any text that begins with none of `starts`, and does not hold the marker."""

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
    """A whole grammar: what an answer is, and the rules that it refers to."""

    start: Rule
    named: tuple[tuple[str, Rule], ...] = ()


NOTHING: Rule = Sequence(())


def schemas(rules: Rules) -> list[Schema]:
    """The schemas in a grammar, each once."""
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
    """The grammar with these schemas changed."""

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
    """The rules one after the other, without empty ones."""
    flat = tuple(item for item in items if item != NOTHING)
    return flat[0] if len(flat) == 1 else Sequence(flat)


def choice(options: Iterable[Rule]) -> Rule:
    """One of the rules, each named once."""
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
    """Items in their order, each with whether it is required; `opening` comes before the first one that is there, and
    `closing` after the last. `empty` stands for none. `named` gives a rule that is used twice a name."""
    begun = closing
    for item, required in reversed(items):
        after = named(begun)
        first = sequence(opening, item, after)
        if required:
            begun, empty = sequence(separator, item, after), first
        else:
            begun, empty = sequence(optional(sequence(separator, item)), after), choice([first, named(empty)])
    return empty


def repeated(rule: Rule, least: int, most: int | None) -> Rule:
    """The rule so many times; no upper bound is above MOST_REPETITIONS. Raises ValueError where a lower one is."""
    if least > MOST_REPETITIONS:
        raise ValueError(f"more than {MOST_REPETITIONS} repetitions are not followed here")
    if most is not None and most < least:
        raise ValueError(f"from {least} to {most} there is none")
    return Repeat(rule, least, None if most is None else min(most, MOST_REPETITIONS))


def one_of(characters: str) -> Characters:
    return Characters(joined((ord(each), ord(each)) for each in characters))


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges sorted, and those that touch as one."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def without(ranges: Ranges, excluded: Ranges) -> Ranges:
    """What is in `ranges` and not in `excluded`."""
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
