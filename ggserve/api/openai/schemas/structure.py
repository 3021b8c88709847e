"""Structured output, besides OpenAI's `response_format`: the fields of vLLM, SGLang and llama-server."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ggserve.api.fields import ModelRequest, Strict, field_error
from ggserve.generation import ConfidenceField, Grammar, GrammarKind, schema_grammar

Choices = Annotated[list[str], Field(min_length=1)]
Schema = dict[str, Any] | bool | str  # a string contains JSON


class StructuredOutputs(Strict):
    """vLLM's `structured_outputs`."""

    definition: Schema | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Literal[None] = None  # not supported
    whitespace_pattern: Literal[None] = None


class StructuredRequest(ModelRequest):
    """At most one of these fields can be set. Under vLLM's names, a grammar with `::=` is EBNF, read as GBNF, any other
    is llguidance's Lark. `grammar` is llama.cpp's GBNF; `regex` and `ebnf` are SGLang's fields."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: dict[str, Any] | None = None
    choice_probabilities: bool | None = None
    field_confidence: bool | None = None

    @model_validator(mode="after")
    def _one_at_most(self) -> "StructuredRequest":
        if len(given := self.grammars()) > 1:
            raise field_error(given[1].source or "", "only one kind of structured output can be requested")
        return self

    @property
    def confidence(self) -> ConfidenceField | None:
        """The kind of confidence to return with the answer, if requested."""
        if self.choice_probabilities:
            return "choice_probabilities"
        return "field_confidence" if self.field_confidence else None

    @property
    def held_to(self) -> Grammar | None:
        """The grammar that constrains the answer. Raises InvalidRequest."""
        return next(iter(self.grammars()), None)

    def grammars(self) -> list[Grammar]:
        """Return all grammars given; the same one under two names counts once. Raises InvalidRequest."""
        given = self.structured_outputs or StructuredOutputs.model_validate({})
        any_object = {"type": "object"} if given.json_object else None
        found: list[Grammar] = []
        for source, definition in (
            ("guided_json", self.guided_json),
            ("structured_outputs", given.definition),
            ("structured_outputs", any_object),
            ("json_schema", self.json_schema),
        ):
            found += [schema_grammar(_schema(definition, source), source)] if definition is not None else []
        for source, choice in (("guided_choice", self.guided_choice), ("structured_outputs", given.choice)):
            found += [Grammar("choice", json.dumps(choice), source)] if choice is not None else []
        texts: list[tuple[GrammarKind, str, str | None]] = [
            ("regex", "guided_regex", self.guided_regex),
            ("regex", "structured_outputs", given.regex),
            ("regex", "regex", self.regex),
            (_language(self.guided_grammar), "guided_grammar", self.guided_grammar),
            (_language(given.grammar), "structured_outputs", given.grammar),
            ("gbnf", "ebnf", self.ebnf),
            ("gbnf", "grammar", self.grammar or None),  # "" is llama-server's default value
        ]
        found += [Grammar(kind, text, source) for kind, source, text in texts if text is not None]
        return list(dict.fromkeys(found))


def _schema(definition: Schema, source: str) -> dict[str, Any]:
    if isinstance(definition, str):
        try:
            definition = json.loads(definition)
        except (ValueError, RecursionError) as error:
            raise field_error(source, f"{source} is a string that is not valid JSON: {error}") from error
    if definition is True:
        return {}
    if not isinstance(definition, dict):
        raise field_error(source, f"{source} must be a JSON schema")
    return definition


def _language(grammar: str | None) -> GrammarKind:
    return "gbnf" if grammar and "::=" in grammar else "lark"
