"""OpenAI's request bodies, validated. Unknown fields are ignored; known ones that do nothing yet are errors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from engine.contract import Feature, SamplingParams, Tools
from engine.grammar import schema_grammar

# Fields of the OpenAI API that are not supported, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
# Fields of chats only.
_CHAT_FIELDS: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
}

Stop = Annotated[list[str], Field(max_length=16)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_MAX_INPUTS = 2048  # of /v1/embeddings, as OpenAI's API


class StreamOptions(BaseModel):
    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = _UNSUPPORTED

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    stop: str | Stop | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=10, allow_inf_nan=False)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None
    ignore_eos: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        for name, harmless in cls.unsupported.items() if isinstance(body, dict) else ():
            value = body.get(name)
            if not any(value == ok and type(value) is type(ok) for ok in harmless):
                raise PydanticCustomError(
                    "unsupported_parameter", "{param} is not supported by this server", {"param": name}
                )
        return body

    @field_validator("logit_bias")
    @classmethod
    def _token_keys(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdigit()):
                raise ValueError(f"{key!r} is not a token id")
        return bias

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def needs(self) -> Iterator[tuple[str, Feature]]:
        """Fields that not every engine supports, with what they need."""
        return iter(())

    def sampling_params(self) -> SamplingParams:
        """The parameters given, and defaults for the rest."""
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": max(self.top_k, 0) if self.top_k is not None else None,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(key): value for key, value in (self.logit_bias or {}).items()},
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "ignore_eos": self.ignore_eos,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    unsupported = _UNSUPPORTED | _CHAT_FIELDS

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    stream: bool | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one for each choice."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: Any) -> Any:
        if prompt == []:
            raise ValueError("must hold at least one prompt")
        return prompt


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat. Fields that only templates know are passed on to the template."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, message: Any) -> Any:
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            for part in message["content"]:
                if isinstance(part, dict) and part.get("type") not in ("text", None):
                    raise ValueError(f"content of type {part['type']!r} is not supported, only 'text'")
        return message

    def template_message(self) -> dict[str, Any]:
        """The message as chat templates expect it: content a string, OpenAI's newer role names as older ones."""
        content = self.content or ""
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        return {**(self.model_extra or {}), "role": role, "content": content}


class Function(BaseModel):
    """A function that the model may call. `parameters` is a JSON schema."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    name: str


class NamedTool(BaseModel):
    type: Literal["function"]
    function: FunctionName


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


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions` and `/v2/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=0)
    stream: bool | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _choice_of_tools(self) -> "ChatRequest":
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required', but there are no tools")
        return self

    def needs(self) -> Iterator[tuple[str, Feature]]:
        if self.called_tools is not None:
            yield "tools", "tools"
        if self.sampling_params().grammar is not None:
            yield "response_format", "grammar"

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
        schema = self.response_format.schema_of_answer if self.response_format else None
        return params if schema is None else replace(params, grammar=schema_grammar(schema))


class EmbeddingsRequest(BaseModel):
    """`POST /v1/embeddings`."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    input: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str] | list[list[TokenId]], Field(min_length=1, max_length=_MAX_INPUTS)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == "" or (isinstance(value, list) and any(item in ("", []) for item in value)):
            raise ValueError("an input is empty")
        return value

    @property
    def inputs(self) -> list[Any]:
        """The inputs, each a text or token ids."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)
