"""Write rules in llguidance's dialect of Lark, used on ctransformers and on builds of llama.cpp with llguidance."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ggserve.grammar.json_rules import json_rules
from ggserve.grammar.rule_writer import RuleWriter, times
from ggserve.grammar.rules import (
    GBNF,
    Characters,
    Choice,
    Lark,
    Lexeme,
    Literal,
    Marker,
    Reference,
    Regex,
    Repeat,
    Rule,
    Rules,
    Schema,
    Sequence,
    Text,
    TextBefore,
)

HEAD = "%llguidance {}\n"
# Turns off forced tokens: a user's regular expression can force a million characters.
UNFORCED_HEAD = '%llguidance {"no_forcing": true}\n'

USER_START = "user_s_start"  # the first rule of a user's grammar

# JSON formatted as most models write it. `oneOf` means `anyOf`: an answer can match several of the schemas.
_STYLE = {"coerce_one_of": True, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_TEXT = r"/(.|\n)*/"
_WORDS = re.compile(
    r'"(?:\\.|[^"\\])*"|//.*|#.*|/(?:\\.|[^/\\\n])+/|(?P<head>^\s*%llguidance\b.*)|(?P<start>\bstart\b)'
)
# The old llguidance in some builds of llama.cpp loses the end of a long JSON string after an escape sequence.
_LONG_AFTER_ESCAPE = re.compile(r'(?:\\|["\n\t\r\b\f]).{16,}', re.DOTALL)


def lark(
    rules: Rules, *, controls: Mapping[str, int] | None = None, ends: Iterable[int] = (), forced: bool = True
) -> str:
    """Return the grammar in Lark. Raises ValueError.

    `controls` maps markers to tokens that are not text. `ends` are tokens that can end the answer. `forced`: compute
    forced tokens if the rules allow it.
    """
    return _Writer(rules, controls or {}, forced).text(sorted(ends))


class _Writer(RuleWriter):
    def __init__(self, rules: Rules, controls: Mapping[str, int], forced: bool) -> None:
        super().__init__()
        self._rules = rules
        self._controls = controls
        self._control = re.compile(f"({'|'.join(map(re.escape, sorted(controls, key=len, reverse=True))) or '(?!)'})")
        self._head = HEAD if forced else UNFORCED_HEAD
        self._lines: list[str] = []
        self._foreign: list[str] = []

    def text(self, ends: list[int]) -> str:
        end = f" (<[{','.join(map(str, ends))}]>)?" if ends else ""
        start = self._either(self._rules.start)
        self._lines.insert(0, f"start: ({start}){end}" if end else f"start: {start}")
        self._lines += [f"{name}: {self._either(rule)}" for name, rule in self._rules.named]
        return "\n".join([self._head + self._lines[0], *self._lines[1:], *self._foreign])

    def _simple(self, rule: Rule) -> str:
        match rule:
            case Literal(text):
                return literal(text)
            case Marker(text):
                return self._marker(text)
            case Reference(name):
                return name
            case Characters():
                return f"/{_regex(rule)}/"
        return self._defined(rule)

    def _marker(self, text: str) -> str:
        parts = self._control.split(text)
        return " ".join(
            f"<[{self._controls[part]}]>" if number % 2 else literal(part) for number, part in enumerate(parts) if part
        )

    def _define(self, rule: Rule, name: str) -> str:
        terminal = name.upper()
        match rule:
            case Lexeme(inner):
                self._lines.append(f"{terminal}: /{_regex(inner)}/")
                return terminal
            case Regex(pattern):
                from llguidance import regex_to_lark  # imported here because it is slow and few servers need it

                return f"/{regex_to_lark(pattern)}/"
            case Schema():
                return self._schema(rule, name)
            case TextBefore(marker, starts):
                before = self._control.split(marker.text)[0]
                text = self._any_text(terminal, starts)
                if not before:
                    return f"{text} {self._marker(marker.text)}"
                if text == _ANY_TEXT:
                    self._lines.append(f"{terminal}: {text}")
                self._lines.append(f"{name}[lazy]: {terminal} {literal(before)}")
                return f"{name} {after}" if (after := self._marker(marker.text[len(before) :])) else name
            case Text(_, starts):
                return self._any_text(terminal, starts)
            case Lark(text):
                return self._user_s(text)
            case GBNF(text):
                return self._user_s(_from_gbnf(text))
        raise AssertionError(rule)

    def _any_text(self, terminal: str, starts: Iterable[Marker]) -> str:
        """Add a terminal for text that begins with none of these. Control tokens are not text."""
        excluded = [text for start in starts if (text := self._control.split(start.text)[0])]
        if not excluded:
            return _ANY_TEXT
        begins = "|".join("".join(map(_in_regex, text)) for text in excluded)
        self._lines.append(f"{terminal}: {_ANY_TEXT} & ~/({begins})(.|\\n)*/")
        return terminal

    def _schema(self, rule: Schema, name: str) -> str:
        schema = orjson.loads(rule.text)
        if _has_long_text_after_escape(schema):
            start, named = json_rules(
                schema, name, lambda part: not _has_long_text_after_escape(part) and not _refers(part)
            )
            self._lines += [f"{each}: {self._either(inner)}" for each, inner in named.items()]
            self._lines.append(f"{name}: {self._either(start)}")
            return name
        style = {**_STYLE, "lenient": True} if rule.lenient else _STYLE
        return f"%json {orjson.dumps({'x-guidance': style, **schema}).decode()}"

    def _user_s(self, text: str) -> str:
        """Add a user's grammar, with its rules renamed to avoid conflicts."""
        if self._foreign:
            raise ValueError("two grammars in one request are not supported")
        self._head = UNFORCED_HEAD
        self._foreign.append(
            _WORDS.sub(lambda word: "" if word["head"] else USER_START if word["start"] else word[0], text)
        )
        return USER_START


def literal(text: str) -> str:
    """Return a text as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def names_tokens(text: str) -> bool:
    """Return whether a Lark grammar refers to tokens by id."""
    return "<[" in _WORDS.sub(lambda word: word["start"] or "", text)


def _from_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(str(error)) from error


def _regex(rule: Rule) -> str:
    """Return a rule without references as a regular expression in Rust's syntax."""
    match rule:
        case Literal(text):
            return "".join(map(_in_regex, text))
        case Characters(ranges):
            parts = (_in_regex(chr(low)) + (f"-{_in_regex(chr(high))}" if high > low else "") for low, high in ranges)
            return f"[{''.join(parts)}]"
        case Sequence(items):
            return "".join(map(_regex, items))
        case Choice(options):
            return f"(?:{'|'.join(map(_regex, options))})"
        case Repeat(inner, least, most):
            return f"(?:{_regex(inner)}){times(least, most)}"
    raise ValueError(f"{type(rule).__name__} cannot be part of a regular expression")


def _in_regex(character: str) -> str:
    return character if character.isalnum() and character.isascii() else f"\\x{{{ord(character):X}}}"


def _has_long_text_after_escape(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_long_text_after_escape, value))
    if isinstance(value, dict):
        return any(
            _holds(inner) if key in ("const", "enum", "pattern") else _has_long_text_after_escape(inner)
            for key, inner in value.items()
        )
    return False


def _holds(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_LONG_AFTER_ESCAPE.search(value))
    if isinstance(value, list | dict):
        return any(map(_holds, value.values() if isinstance(value, dict) else value))
    return False


def _refers(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, dict) and ("$ref" in value or any(map(_refers, value.values())))
