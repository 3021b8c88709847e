"""The grammar of the arguments of a tool call, from the syntax of a chat format and the schema of the function."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ggserve.chat.exceptions import gemma4, minimax_m3
from ggserve.chat.format import ArgumentsFormat
from ggserve.chat.literals import common_beginning
from ggserve.chat.nested_arguments import NestedArguments, Syntax
from ggserve.errors import InvalidRequest
from ggserve.grammar.rules import (
    ANY,
    MOST_REPETITIONS,
    NOTHING,
    Characters,
    Lexeme,
    Literal,
    Marker,
    Reference,
    Repeat,
    Rule,
    Schema,
    TextBefore,
    choice,
    in_order,
    optional,
    sequence,
    without,
)
from ggserve.grammar.schemas import schema_rule

_NO_ARGUMENTS = {"type": "object", "properties": {}}


class ArgumentsGrammar:
    """Return the rule of the arguments of a call of one function, and `end`, which follows all calls."""

    def __init__(
        self,
        form: ArgumentsFormat,
        named: dict[str, Rule],
        function: Mapping[str, Any],
        end: tuple[Rule, str],
        *,
        required: bool,
    ) -> None:
        """`named` receives the rules that are referred to. `end` comes with its text up to its first variable part."""
        self._named = named
        self._form = form
        self._end, self._end_text = end
        self._name: str = function["name"]
        self._strict = bool(function.get("strict"))
        self._loose = not self._strict and not required
        self._parameters = function.get("parameters") or _NO_ARGUMENTS

    def rule(self) -> Rule:
        """Raise InvalidRequest."""
        match self._form.syntax:
            case "json":
                return sequence(self._schema(lambda: {"type": "object", **self._parameters}, "object"), self._end)
            case "parameters" if isinstance(self._parameters, dict) and isinstance(
                properties := self._parameters.get("properties", {}), dict
            ):
                return sequence(self._with_names(properties), self._end)
            case "gemma" | "minimax" as syntax:
                family: Syntax = gemma4 if syntax == "gemma" else minimax_m3
                with suppress(ValueError):
                    members = NestedArguments(family, self._reference).members(self._parameters)
                    return sequence(members, family.end(self._end_text))
        if not self._end_text:
            return self._end
        return TextBefore(Marker(self._end_text))

    def _schema(self, schema: Any, spare: str | None) -> Rule:
        spare_text = '{"type":"object"}' if spare else "{}"
        try:
            rule = schema_rule(schema(), lenient=not self._strict)
        except (TypeError, ValueError) as error:
            if self._loose:
                return Schema(spare_text)
            raise InvalidRequest(f"The parameters of {self._name} are not supported: {error}", "tools") from error
        return replace(rule, tool=self._name, loose=self._loose, spare=spare_text)

    def _with_names(self, properties: Mapping[str, Any]) -> Rule:
        """Return the rule of parameters in the order of the schema; optional ones may be left out."""
        form = self._form
        common = common_beginning(form.between, form.close)
        common = common[: common.rfind(">") + 1] if ">" in common and not form.quote else ""
        between, close = Marker(form.between[len(common) :]), marker(form.close[len(common) :])
        required = self._parameters.get("required")
        required = required if isinstance(required, list) else []
        pairs = [
            (sequence(Literal(name), self._value(schema, common)), name in required)
            for name, schema in properties.items()
        ]
        return in_order(
            pairs,
            between,
            self._reference,
            opening=marker(form.open),
            closing=close,
            empty=marker(form.empty) if form.empty else sequence(marker(form.open), close),
        )

    def _reference(self, rule: Rule) -> Reference:
        name = f"a_{len(self._named)}"
        self._named[name] = rule
        return Reference(name)

    def _value(self, schema: Any, common: str) -> Rule:
        form = self._form
        types = schema.get("type") if isinstance(schema, dict) else None
        may_be_text = types is None or (isinstance(types, list) and "string" in types)
        if types == "string" or (may_be_text and not form.quote):
            return sequence(marker(form.after_key), self._text(schema, common))
        whole = {key: self._parameters[key] for key in ("$defs", "definitions") if key in self._parameters}
        other = form.after_key if form.after_key_other is None else form.after_key_other
        return sequence(marker(other), self._schema(lambda: {**schema, **whole}, None), marker(common))

    def _text(self, schema: Any, common: str) -> Rule:
        form = self._form
        values = schema.get("enum") if isinstance(schema, dict) else None
        if form.quote == '"':
            return self._schema(lambda: schema, None)
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return sequence(choice(Literal(f"{form.quote}{value}{form.quote}") for value in values), marker(common))
        if common:
            short = _short(schema, common[0])
            return sequence(short, marker(common)) if short is not None else TextBefore(Marker(common))
        ends = {form.quote[:1] or text[:1] for text in (form.between.strip(), form.close.strip()) if text}
        inner = Repeat(Characters(without(ANY, tuple(sorted((ord(each), ord(each)) for each in ends if each)))))
        return Lexeme(sequence(Literal(form.quote), inner, Literal(form.quote)) if form.quote else inner)


def _short(schema: Any, end: str) -> Rule | None:
    """Return the rule of a raw text whose length the schema limits, or None if it does not. The text cannot contain the
    character `end`."""
    most = schema.get("maxLength") if isinstance(schema, dict) else None
    if not isinstance(most, int) or not 0 < most <= MOST_REPETITIONS:
        return None
    least = schema.get("minLength", 0)
    text = Lexeme(Repeat(Characters(without(ANY, ((ord(end), ord(end)),))), max(least, 1), most))
    return text if least else optional(text)


def marker(text: str) -> Rule:
    return Marker(text) if text else NOTHING
