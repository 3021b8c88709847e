"""`POST /v1/responses`: the request body. Tools that only OpenAI has are left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ggserve.api.fields import (
    ModelRequest,
    Probability,
    Strict,
    Temperature,
    ToolSchema,
    Whole,
    field_error,
    thinking,
    thinking_budget,
)
from ggserve.api.openai.responses.items import Item, function_name
from ggserve.api.openai.schemas.sampling import Seed, Stop
from ggserve.generation import Grammar, SamplingParams, schema_grammar
from ggserve.messages import Tools

_LOGPROBS = "message.output_text.logprobs"
_FUNCTION = {"name", "description", "parameters", "strict"}
_CUSTOM_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_Short = Annotated[str, Field(max_length=64)]  # like OpenAI's API; responses are stored with these


def _as_items(given: Any) -> Any:
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _as_choice(given: Any) -> Any:
    return {"type": given} if isinstance(given, str) else given


class CustomFormat(Strict):
    type: Literal["text", "grammar"] = "text"
    syntax: str | None = None
    definition: str | None = None


class Tool(Strict):
    """A function, a free-text tool, a namespace of such tools, or a tool that only OpenAI has."""

    type: str
    name: str | None = Field(None, pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: ToolSchema | None = None
    strict: bool | None = None
    format: CustomFormat | None = None
    tools: "list[Tool] | None" = None

    @model_validator(mode="after")
    def _named(self) -> "Tool":
        if self.type in ("function", "custom", "namespace") and self.name is None:
            raise ValueError("name is missing")
        return self


@dataclass(frozen=True)
class Callable:
    """A tool in the form that the model knows: a function."""

    name: str  # of the function
    tool: Tool
    namespace: str | None

    @property
    def function(self) -> dict[str, Any]:
        """Return the function as a tool object for chats."""
        fields = self.tool.model_dump(include=_FUNCTION, exclude_none=True) | {"name": self.name}
        if self.tool.type == "custom":
            format = self.tool.format
            syntax = (
                f"The input follows this grammar ({format.syntax}):\n{format.definition}"
                if (format and format.type == "grammar")
                else None
            )
            described = "\n\n".join(filter(None, (self.tool.description, syntax)))
            fields = {"name": self.name, "description": described, "parameters": _CUSTOM_INPUT}
        return {"type": "function", "function": fields}


def callables(tools: Iterable[Tool], namespace: str | None = None) -> Iterator[Callable]:
    """Yield the tools that the model can call here."""
    for tool in tools:
        if tool.type == "namespace":
            yield from callables(tool.tools or (), tool.name)
        elif tool.type in ("function", "custom"):
            yield Callable(function_name(tool.name or "", namespace), tool, namespace)


class AllowedTool(Strict):
    type: str
    name: str | None = None


class ToolChoice(Strict):
    type: Literal["none", "auto", "required", "function", "custom", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[AllowedTool] = Field([])

    @property
    def names(self) -> list[str | None] | None:
        """The functions that it allows; None: all."""
        if self.type == "allowed_tools":
            return [tool.name for tool in self.tools if tool.type in ("function", "custom")]
        return [self.name] if self.type in ("function", "custom") else None

    @property
    def required(self) -> bool:
        return self.type in ("required", "function", "custom") or (
            self.type == "allowed_tools" and self.mode == "required"
        )


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    definition: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _schema_given(self) -> "TextFormat":
        if self.type == "json_schema" and self.definition is None:
            raise ValueError("schema is missing")
        return self


class TextOptions(Strict):
    format: TextFormat = TextFormat()
    verbosity: str | None = None


class Reasoning(Strict):
    effort: str | None = None
    summary: str | None = None


class PromptRequest(ModelRequest):
    """`POST /v1/responses/input_tokens`, and the fields that `/v1/responses` shares with it."""

    endpoint = "/v1/responses"
    prompt_field = "input"

    input: Annotated[list[Item], BeforeValidator(_as_items)] = Field([], max_length=10_000)
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Tool] = Field([])
    tool_choice: Annotated[ToolChoice, BeforeValidator(_as_choice)] = ToolChoice(type="auto")
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    max_output_tokens: Whole | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _prepared(cls, body: Any) -> Any:
        """Treat null as absent."""
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}

    @model_validator(mode="after")
    def _tools_exist(self) -> "PromptRequest":
        names = {name for each in self.callables for name in (each.name, each.tool.name)}
        for name in self.tool_choice.names or ():
            if name not in names:
                raise field_error("tool_choice", f"tool_choice names {name!r}, which is not among the tools")
        if self.tool_choice.required and not names:
            raise field_error("tool_choice", "tool_choice requires a call, but there are no tools")
        return self

    @cached_property
    def callables(self) -> list[Callable]:
        """The tools that the model can call."""
        return list(callables(self.tools))

    @property
    def template_arguments(self) -> dict[str, Any]:
        """The variables for the chat template."""
        effort = self.reasoning.effort if self.reasoning else None
        return thinking(None if effort is None else effort != "none", effort)

    @property
    def called_tools(self) -> Tools | None:
        """The tools that the answer may call."""
        choice = self.tool_choice
        functions = tuple(
            each.function
            for each in self.callables
            if choice.names is None or each.name in choice.names or each.tool.name in choice.names
        )
        if not functions or choice.type == "none":
            return None
        parallel = self.parallel_tool_calls is not False and choice.type not in ("function", "custom")
        return Tools(functions, required=choice.required, parallel=parallel)


class ResponsesRequest(PromptRequest):
    """`POST /v1/responses`."""

    stream: bool = False
    store: bool = True
    field_confidence: bool = False
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Whole | None = Field(None, ge=-1)  # this and the next two are vLLM's fields
    stop: str | Stop | None = None
    seed: Seed = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    include: list[str] = Field([])
    metadata: Annotated[dict[_Short, Annotated[str, Field(max_length=512)]], Field(max_length=16)] = Field({})
    max_tool_calls: Whole | None = None  # limits OpenAI's own tools
    prompt_cache_key: _Short | None = None
    safety_identifier: _Short | None = None
    service_tier: str | None = None
    user: _Short | None = None

    @property
    def scored(self) -> bool:
        """True if the text should have log-probabilities."""
        return self.top_logprobs is not None or _LOGPROBS in self.include

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that constrains the text."""
        schema = self.text.format.definition if self.text.format.type == "json_schema" else {"type": "object"}
        return None if self.text.format.type == "text" else schema_grammar(schema or {}, "text.format")

    def sampling_params(self) -> SamplingParams:
        """Return the given parameters, with defaults for the rest."""
        given: dict[str, Any] = {
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "seed": self.seed,
            "logprobs": (self.top_logprobs or 0) if self.scored else None,
            "grammar": self.grammar,
            "confidence": "field_confidence" if self.field_confidence else None,
            "thinking_budget": thinking_budget(None, self.reasoning.effort if self.reasoning else None),
        }
        return SamplingParams.of(given)
