"""Write rules in GBNF, the grammar format that every build of llama.cpp supports.

Builds without llguidance support nothing else. With llguidance, GBNF is used for vocabularies whose spaces llguidance
would lose: llama.cpp gives it each token decoded alone, and if the tokenizer puts a space before a text, decoding
removes one, so " the" becomes "the". llama.cpp's own grammars see the tokens as they are, and control tokens as their
text.
"""

import re

import orjson

from ggserve.grammar.json_rules import json_rules
from ggserve.grammar.regexes import regex_rule
from ggserve.grammar.rule_writer import RuleWriter
from ggserve.grammar.rules import (
    ANY,
    GBNF,
    MOST_REPETITIONS,
    NOTHING,
    Characters,
    Lark,
    Lexeme,
    Literal,
    Marker,
    Ranges,
    Reference,
    Regex,
    Repeat,
    Rule,
    Rules,
    Schema,
    Text,
    TextBefore,
    choice,
    sequence,
    without,
)

_MOST_CHARACTERS = 1 << 20  # in all rules together
_WORDS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?P<root>(?<![\w-])root(?![\w-]))')


def gbnf(rules: Rules) -> str:
    """Return the grammar in GBNF. Raises ValueError naming the construct that GBNF cannot express."""
    return _Writer(rules).text()


class _Writer(RuleWriter):
    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._rules = rules
        self._written: dict[str, str] = {}
        self._foreign = ""
        self._size = 0

    def text(self) -> str:
        if isinstance(self._rules.start, GBNF) and not self._rules.named:
            return self._rules.start.text
        self._add("root", self._rules.start)
        for name, rule in self._rules.named:
            self._add(_name(name), rule)
        return "\n".join([*(f"{name} ::= {body}" for name, body in self._written.items()), self._foreign])

    def _add(self, name: str, rule: Rule) -> None:
        self._written[name] = ""  # reserve the name
        self._written[name] = body = self._either(rule)
        self._size += len(body)
        if self._size > _MOST_CHARACTERS:
            raise ValueError(f"its GBNF form is longer than {_MOST_CHARACTERS} characters")

    def _simple(self, rule: Rule) -> str:
        match rule:
            case Literal(text) | Marker(text):
                return _quoted(text)
            case Characters(ranges):
                return _class(ranges)
            case Reference(name):
                return _name(name)
            case Lexeme(inner):
                return self._one(inner)
        return self._defined(rule)

    def _one(self, rule: Rule) -> str:
        if isinstance(rule, Repeat) and max(rule.least, rule.most or 0) > MOST_REPETITIONS:
            raise ValueError(f"more than {MOST_REPETITIONS} repetitions are not supported")
        return super()._one(rule)

    def _define(self, rule: Rule, name: str) -> str:
        own = _name(name)
        match rule:
            case Regex(pattern):
                self._add(own, regex_rule(pattern))
            case Schema(text):
                start, named = json_rules(orjson.loads(text), name)
                self._add(own, start)
                for each, inner in named.items():
                    self._add(_name(each), inner)
            case TextBefore(marker):
                self._add_text(name, marker.text, Marker(marker.text))
            case Text(marker):
                self._add_text(name, marker.text if marker else "", NOTHING)
            case GBNF(text):
                if self._foreign:
                    raise ValueError("two GBNF grammars in one request are not supported")
                self._foreign = _WORDS.sub(lambda word: f"{own}-root" if word["root"] else word[0], text)
                self._written[own] = f"{own}-root"
            case Lark():
                raise ValueError("Lark grammars are not supported with this model")
        return own

    def _add_text(self, name: str, marker: str, end: Rule) -> None:
        """Add rules for text without the marker, followed by an end: one rule per number of the marker's characters
        that have matched (Knuth, Morris, Pratt 1977)."""
        if not marker:
            self._add(_name(name), Repeat(Characters(ANY)))
            return
        for come in range(len(marker)):
            begun = marker[:come]
            options: list[Rule] = [] if end != NOTHING else [NOTHING]
            others: dict[str, int] = {}
            for character in dict.fromkeys(marker):
                text = begun + character
                others[character] = next(size for size in range(len(text), -1, -1) if text.endswith(marker[:size]))
            for character, size in others.items():
                if size < len(marker):
                    if size:
                        options.append(sequence(Literal(character), Reference(_state(name, size))))
                elif end != NOTHING:
                    options.append(Literal(character))
            plain = without(ANY, tuple(sorted((ord(c), ord(c)) for c, size in others.items() if size)))
            options.append(sequence(Characters(plain), Reference(_state(name, 0))))
            self._add(_name(_state(name, come)), choice(options))
        self._written[_name(name)] = _name(_state(name, 0))


def _state(name: str, come: int) -> str:
    return f"{name}_{come}"


def _name(name: str) -> str:
    return name.replace("_", "-")


def _quoted(text: str) -> str:
    return f'"{"".join(_escaped(character) for character in text)}"'


def _class(ranges: Ranges) -> str:
    """Return a character class, never a negated one: llama.cpp matches invalid UTF-8 bytes with negated classes."""
    return f"[{_spelled(ranges)}]"


def _spelled(ranges: Ranges) -> str:
    return "".join(_in_class(low) + (f"-{_in_class(high)}" if high > low else "") for low, high in ranges)


def _in_class(code: int) -> str:
    character = chr(code)
    return f"\\x{code:02X}" if character in "[]^-" else _escaped(character)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    return character if 32 <= code < 127 or code >= 0xA0 else f"\\x{code:02X}"
