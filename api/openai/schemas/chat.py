"""`POST /v1/chat/completions`: the request body."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.fields import Whole
from api.openai.schemas.generation import MAX_LOGPROBS, UNSUPPORTED, GenerationRequest, MaxTokens, wrong
from api.openai.schemas.messages import Message
from api.openai.schemas.tools import NamedTool, Tool
from engine.contract import Feature, SamplingParams, Tools
from engine.grammar import schema_grammar


class JsonSchema(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """`json_object`: any JSON object; `json_schema`: JSON of that schema."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.definition
        return {"type": "object"} if self.type == "json_object" else None


# Fields of completions only, and those of chats that are not supported.
_COMPLETION_FIELDS: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
}


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions` and `/v2/chat/completions`."""

    unsupported = UNSUPPORTED | _COMPLETION_FIELDS

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _logprobs_wanted(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise wrong("top_logprobs", "top_logprobs needs logprobs to be true")
        return self

    @model_validator(mode="after")
    def _choice_of_tools(self) -> "ChatRequest":
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required', but there are no tools")
        return self

    def needs(self) -> Iterator[tuple[str, Feature]]:
        """Fields that not every model supports, with what they need."""
        if any(message.has_image for message in self.messages):
            yield "messages", "images"

    @property
    def called_tools(self) -> Tools | None:
        """What the answer may call."""
        if not self.tools or self.tool_choice == "none":
            return None
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        functions = [
            tool.model_dump(exclude_none=True) for tool in self.tools if named is None or tool.function.name == named
        ]
        return Tools(
            tuple(functions),
            required=named is not None or self.tool_choice == "required",
            parallel=self.parallel_tool_calls is not False and named is None,
        )

    def sampling_params(self) -> SamplingParams:
        params = super().sampling_params()
        if self.max_completion_tokens is not None:
            params = replace(params, max_tokens=self.max_completion_tokens)
        if self.logprobs:
            params = replace(params, logprobs=self.top_logprobs or 0)
        schema = self.response_format.schema_of_answer if self.response_format else None
        return params if schema is None else replace(params, grammar=schema_grammar(schema))
