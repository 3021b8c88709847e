"""What an answer shall be held to, besides OpenAI's `response_format`: the fields of vLLM and of llama-server."""

import json
from typing import Annotated, Any

from pydantic import Field, model_validator

from ggserve.api.fields import ModelRequest, Strict, field_error
from ggserve.generation import ConfidenceField, Grammar, GrammarKind, schema_grammar

Choices = Annotated[list[str], Field(min_length=1)]


class StructuredOutputs(Strict):
    """vLLM's `structured_outputs`."""

    definition: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None  # Lark


class StructuredRequest(ModelRequest):
    """One of these fields at most. `guided_grammar` is llguidance's Lark, `grammar` llama.cpp's GBNF."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    choice_probabilities: bool | None = None
    field_confidence: bool | None = None

    @model_validator(mode="after")
    def _one_at_most(self) -> "StructuredRequest":
        if len(given := self._grammars()) > 1:
            raise field_error(given[1].source or "", "an answer can be held to one thing only, and several are given")
        return self

    @property
    def confidence(self) -> ConfidenceField | None:
        """How sure the model was of the answer, where that is asked for."""
        if self.choice_probabilities:
            return "choice_probabilities"
        return "field_confidence" if self.field_confidence else None

    @property
    def held_to(self) -> Grammar | None:
        """What the answer is held to. Raises InvalidRequest."""
        return next(iter(self._grammars()), None)

    def _grammars(self) -> list[Grammar]:
        given = self.structured_outputs or StructuredOutputs.model_validate({})
        found: list[Grammar] = []
        for source, definition in (("guided_json", self.guided_json), ("structured_outputs", given.definition)):
            found += [schema_grammar(definition, source)] if definition is not None else []
        for source, choice in (("guided_choice", self.guided_choice), ("structured_outputs", given.choice)):
            found += [Grammar("choice", json.dumps(choice), source)] if choice is not None else []
        texts: list[tuple[GrammarKind, str, str | None]] = [
            ("regex", "guided_regex", self.guided_regex),
            ("regex", "structured_outputs", given.regex),
            ("lark", "guided_grammar", self.guided_grammar),
            ("lark", "structured_outputs", given.grammar),
            ("gbnf", "grammar", self.grammar),
        ]
        return found + [Grammar(kind, text, source) for kind, source, text in texts if text is not None]
