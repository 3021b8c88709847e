"""Ollama's request bodies, validated. Unknown fields and options are ignored, as in Ollama."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ggserve.api.fields import (
    ModelRequest,
    Penalty,
    Probability,
    RepetitionPenalty,
    Strict,
    Temperature,
    ToolSchema,
    Whole,
    field_error,
    thinking,
    thinking_budget,
)
from ggserve.api.images import base64_url, check_image
from ggserve.api.openai.schemas.sampling import LastTokens, Positive, Seed
from ggserve.generation import Grammar, SamplingParams, schema_grammar
from ggserve.messages import Tools


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Options(Strict):
    """Sampling options. The server's settings decide how a model is loaded (`num_gpu`, `num_thread`, ...)."""

    num_ctx: Whole | None = Field(None, ge=1)  # tokens; at most the loaded context

    num_predict: Whole | None = None  # below 1: no limit
    temperature: Temperature | None = None
    top_k: Whole | None = Field(None, ge=0)
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: LastTokens | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Positive | None = None
    mirostat_eta: Positive | None = None
    seed: Seed = None
    stop: Annotated[list[str], Field(max_length=16), BeforeValidator(_as_list)] | None = None


class GenerationRequest(ModelRequest):
    """The common fields of chats and completions. Ollama streams by default."""

    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | str | None = None  # or an effort: "low", "medium", "high" or "max"
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)

    @property
    def streams(self) -> bool:
        """True if the response is streamed."""
        return self.stream is not False and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to answer: the request loads or unloads the model."""
        raise NotImplementedError

    @property
    def template_arguments(self) -> dict[str, Any]:
        """The variables for the chat template."""
        return thinking(None if self.think is None else self.think not in (False, "none"), self.think or None)

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that constrains the answer."""
        if not self.format:
            return None
        return schema_grammar({"type": "object"} if isinstance(self.format, str) else self.format, "format")

    def sampling_params(self) -> SamplingParams:
        """Return the given options, with defaults for the rest."""
        options = self.options or Options()
        limit = options.num_predict
        given: dict[str, Any] = {
            "max_tokens": limit if limit and limit > 0 else None,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "min_p": options.min_p,
            "typical_p": options.typical_p,
            "repeat_last_n": options.repeat_last_n,
            "mirostat": options.mirostat,
            "mirostat_tau": options.mirostat_tau,
            "mirostat_eta": options.mirostat_eta,
            "repetition_penalty": options.repeat_penalty,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            "seed": options.seed,
            "stop": tuple(options.stop or ()),
            "grammar": self.grammar,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "thinking_budget": thinking_budget(None, self.think),
        }
        return SamplingParams.of(given)


def _readable(image: str) -> str:
    check_image(base64_url(image))
    return image


Images = list[Annotated[str, AfterValidator(_readable)]]  # in base64


class Function(Strict):
    name: str
    arguments: dict[str, Any] = Field({})


class ToolCall(Strict):
    id: str | None = None
    function: Function


class Message(Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(Strict):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: ToolSchema | None = None


class Tool(Strict):
    type: Literal["function"] = "function"
    function: ToolFunction


class ChatRequest(GenerationRequest):
    """`POST /api/chat`."""

    endpoint = "/api/chat"

    prompt_field = "messages"

    messages: list[Message] = Field([])
    tools: list[Tool] | None = None
    truncate: bool | None = None

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to answer: the request loads or unloads the model."""
        return not self.messages

    @property
    def called_tools(self) -> Tools | None:
        """The tools that the answer may call."""
        return Tools(tuple(tool.model_dump(exclude_none=True) for tool in self.tools)) if self.tools else None


class GenerateRequest(GenerationRequest):
    """`POST /api/generate`."""

    endpoint = "/api/generate"

    prompt_field = "prompt"

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    images: Images | None = None
    suffix: str | None = None
    template: str | None = None
    context: Annotated[list[int], Field(fail_fast=True)] | None = None

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to answer: the request loads or unloads the model."""
        return not self.prompt

    @model_validator(mode="after")
    def _chat_has_images(self) -> "GenerateRequest":
        if self.images and (self.raw or self.suffix):
            raise field_error("images", "images are not supported with raw or a suffix")
        return self

    @field_validator("template", "context")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported: send the complete prompt with raw, or the conversation to /api/chat")
        return value


class EmbedRequest(ModelRequest):
    """`POST /api/embed`."""

    prompt_field = "input"

    input: Annotated[list[str], BeforeValidator(_as_list), Field(max_length=2048)]
    truncate: bool | None = None
    dimensions: Whole | None = Field(None, ge=1)


class EmbeddingsRequest(ModelRequest):
    """`POST /api/embeddings`, the older endpoint."""

    prompt_field = "prompt"

    prompt: str


class NamedRequest(Strict):
    """A request about one model: `POST /api/show`, `DELETE /api/delete`."""

    model: str | None = None
    name: str | None = None  # the older field

    @property
    def named(self) -> str:
        """The model's name; empty: the server's only model."""
        return self.model or self.name or ""


class PullRequest(NamedRequest):
    """`POST /api/pull`."""

    stream: bool | None = None
    insecure: bool | None = None  # ignored


class CopyRequest(Strict):
    """`POST /api/copy`."""

    source: str
    destination: str
