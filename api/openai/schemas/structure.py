"""What an answer shall be held to, besides OpenAI's `response_format`: the fields of vLLM and of llama-server."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.contract import Grammar
from engine.grammar import schema_grammar

Choices = Annotated[list[str], Field(min_length=1)]


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    definition: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None  # Lark


class StructuredRequest(BaseModel):
    """One of these fields at most. `guided_grammar` is llguidance's Lark, `grammar` llama.cpp's GBNF."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _one_at_most(self) -> "StructuredRequest":
        if len(self._grammars()) > 1:
            raise ValueError("an answer can be held to one thing only, and several are given")
        return self

    @property
    def held_to(self) -> Grammar | None:
        """What the answer is held to. Raises InvalidRequest."""
        return next(iter(self._grammars()), None)

    def _grammars(self) -> list[Grammar]:
        given = self.structured_outputs or StructuredOutputs.model_validate({})
        schemas = [schema for schema in (self.guided_json, given.definition) if schema is not None]
        choices = [json.dumps(choice) for choice in (self.guided_choice, given.choice) if choice is not None]
        return [
            *map(schema_grammar, schemas),
            *(Grammar("choice", text) for text in choices),
            *(Grammar("regex", text) for text in (self.guided_regex, given.regex) if text is not None),
            *(Grammar("lark", text) for text in (self.guided_grammar, given.grammar) if text is not None),
            *(Grammar("gbnf", text) for text in (self.grammar,) if text is not None),
        ]
