"""The grammar of arguments in a family's own syntax of nested values. The family's module writes each kind of value."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ggserve.grammar.rules import Literal, Rule, choice, in_order
from ggserve.grammar.schemas import schema_rule

_NAME = re.compile(r"(?!invoke$)[\w.-]{1,256}")  # characters that no syntax mistakes for something else
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class Syntax(Protocol):
    """The interface of a module of `exceptions`: the grammar of each kind of value."""

    @property
    def NAMES_SORTED(self) -> bool: ...

    @property
    def SEPARATOR(self) -> Rule: ...

    def member(self, name: str, value: Rule) -> Rule: ...

    def object_value(self, members: Rule) -> Rule: ...

    def list_value(self, item: Rule) -> Rule: ...

    def text_value(self, text: str | None) -> Rule: ...

    def scalar_value(self, scalar: Rule) -> Rule: ...

    def end(self, text: str) -> Rule: ...


class NestedArguments:
    """`named` gives a name to a rule that is used twice."""

    def __init__(self, syntax: Syntax, named: Callable[[Rule], Rule]) -> None:
        self._syntax = syntax
        self._named = named

    def members(self, schema: Any) -> Rule:
        """Return the rule of a schema's properties; optional ones may be left out. Raises ValueError if the schema says
        more than is supported."""
        properties = schema.get("properties", {}) if isinstance(schema, Mapping) else None
        if not isinstance(properties, Mapping) or not all(map(_NAME.fullmatch, properties)):
            raise ValueError("its properties are not supported")
        names = sorted(properties, key=str.lower) if self._syntax.NAMES_SORTED else properties
        required = _several(schema["required"]) if schema.get("required") else ()
        members = [(self._syntax.member(name, self._value(properties[name])), name in required) for name in names]
        return in_order(members, self._syntax.SEPARATOR, self._named)

    def _value(self, schema: Any) -> Rule:
        if not isinstance(schema, Mapping):
            raise ValueError("a schema without a type is not supported")
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return choice(map(self._constant, _several(values)))
        types = schema.get("type")
        return choice(self._typed(kind, schema) for kind in _several([types] if isinstance(types, str) else types))

    def _constant(self, value: Any) -> Rule:
        if isinstance(value, str):
            return self._syntax.text_value(value)
        if isinstance(value, list | dict):
            raise ValueError("constants with several values are not supported")
        return self._syntax.scalar_value(Literal(json.dumps(value)))

    def _typed(self, kind: str, schema: Mapping[str, Any]) -> Rule:
        match kind:
            case "string":
                return self._syntax.text_value(None)
            case "object" if "properties" in schema:
                return self._syntax.object_value(self.members(schema))
            case "array":
                return self._syntax.list_value(self._named(self._value(schema.get("items"))))  # it is written twice
            case "integer" | "number" | "boolean" | "null":
                bounds = {key: schema[key] for key in _BOUNDS if key in schema}
                return self._syntax.scalar_value(schema_rule({"type": kind, **bounds}, lenient=True))
        raise ValueError(f"the type {kind!r} is not supported")


def _several(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError("a list without members is not supported")
    return value
