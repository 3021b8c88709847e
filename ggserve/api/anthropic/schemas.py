"""Anthropic's request bodies, validated. Unknown fields, including `cache_control`, are ignored."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

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
from ggserve.api.images import base64_url, check_image
from ggserve.generation import SamplingParams, schema_grammar
from ggserve.messages import Document, Tools, documents_problem


def _as_blocks(content: Any) -> Any:
    """Return content as blocks. A string becomes a text block, because a single form keeps the field paths in errors
    short."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of content blocks")
    return content


class TextBlock(Strict):
    type: Literal["text"]
    text: str


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str


class SkippedBlock(Strict):
    """A block that only Anthropic can read or that its own tools made."""

    type: Literal[
        "redacted_thinking",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "tool_reference",
        "mcp_tool_use",
        "mcp_tool_result",
        "container_upload",
        "compaction",
    ]


class ImageBlock(Strict):
    type: Literal["image"]
    source: dict[str, Any]

    @model_validator(mode="after")
    def _readable(self) -> "ImageBlock":
        if self.source.get("type") != "base64" or not isinstance(self.source.get("data"), str):
            raise ValueError("an image's source must have type base64, with its data; this server does not fetch URLs")
        check_image(self.url)
        return self

    @property
    def url(self) -> str:
        return base64_url(self.source["data"])


class SearchResultBlock(Strict):
    type: Literal["search_result"]
    title: str
    source: str
    content: list[TextBlock]

    @property
    def text(self) -> str:
        return "\n".join((self.title, self.source, *(block.text for block in self.content)))


class PlainTextSource(Strict):
    type: Literal["text"]
    data: str


class Citations(Strict):
    enabled: bool = False


class DocumentBlock(Strict):
    type: Literal["document"]
    source: PlainTextSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None

    @property
    def text(self) -> str:
        return "\n".join(part for part in (self.title, self.context, self.source.data) if part)


ResultBlock = Annotated[
    TextBlock | SearchResultBlock | DocumentBlock | ImageBlock | SkippedBlock, Field(discriminator="type")
]


class ToolUseBlock(Strict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[list[ResultBlock], BeforeValidator(_as_blocks)] = Field(default_factory=list)
    is_error: bool = False


Block = Annotated[
    TextBlock
    | ThinkingBlock
    | SkippedBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock,
    Field(discriminator="type"),
]
Role = Literal["user", "assistant", "system", "ctx", "msg"]


class Message(Strict):
    """One turn. Claude Code also sends roles other than `user` and `assistant`."""

    role: Role
    content: Annotated[list[Block], BeforeValidator(_as_blocks)]


class Tool(Strict):
    """A client's tool. Anthropic's own tools (`web_search_...`) have a type but no schema, and are left out."""

    type: str | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    input_schema: ToolSchema | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> "Tool":
        if self.is_custom and self.input_schema is None:
            raise ValueError("input_schema is missing")
        return self

    @property
    def is_custom(self) -> bool:
        return self.type in (None, "custom")

    @property
    def function(self) -> dict[str, Any]:
        """Return the tool as OpenAI's tool object."""
        described = {} if self.description is None else {"description": self.description}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": self.input_schema}}


class ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Strict):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Whole | None = Field(None, ge=0)


class OutputFormat(Strict):
    type: Literal["json_schema"]
    definition: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    effort: str | None = None
    format: OutputFormat | None = None


class ContextEdit(Strict):
    """Edits that Anthropic's server would make to a conversation. Here nothing is removed, so only edits that keep
    everything are accepted."""

    model_config = ConfigDict(extra="allow")

    type: str
    keep: Any = None

    @model_validator(mode="after")
    def _keeps_all(self) -> "ContextEdit":
        if not self.type.startswith("clear_thinking") or self.keep != "all":
            raise ValueError(f"{self.type} is not supported: this server does not edit conversations")
        return self


class ContextManagement(Strict):
    edits: list[ContextEdit] = Field([])


class PromptRequest(ModelRequest):
    """`POST /v1/messages/count_tokens`, and the fields that `/v1/messages` shares with it."""

    endpoint = "/v1/messages"
    prompt_field = "messages"

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    system: Annotated[list[TextBlock], BeforeValidator(_as_blocks)] = Field(default_factory=list)
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the older name of output_config
    context_management: ContextManagement | None = None

    @model_validator(mode="after")
    def _tool_exists(self) -> "PromptRequest":
        names = [tool.name for tool in self.tools or () if tool.is_custom]
        if choice := self.tool_choice:
            if choice.type == "tool" and choice.name not in names:
                raise field_error("tool_choice", f"tool_choice names {choice.name!r}, which is not among the tools")
            if choice.type == "any" and not names:
                raise field_error("tool_choice", "tool_choice is 'any', but there are no tools")
        return self

    @property
    def template_arguments(self) -> dict[str, Any]:
        """The variables for the chat template."""
        return thinking(None if self.thinking is None else self.thinking.type != "disabled")

    @property
    def called_tools(self) -> Tools | None:
        """The tools that the answer may call."""
        choice = self.tool_choice or ToolChoice(type="auto")
        functions = tuple(
            tool.function
            for tool in self.tools or ()
            if tool.is_custom and (choice.type != "tool" or tool.name == choice.name)
        )
        if not functions or choice.type == "none":
            return None
        return Tools(
            functions,
            required=choice.type in ("any", "tool"),
            parallel=not choice.disable_parallel_tool_use and choice.type != "tool",
        )


class MessagesRequest(PromptRequest):
    """`POST /v1/messages`."""

    @model_validator(mode="after")
    def _can_cite(self) -> "MessagesRequest":
        blocks = self._documents()
        enabled = [block.citations is not None and block.citations.enabled for block in blocks]
        if not any(enabled):
            return self
        if not all(enabled):
            raise field_error("messages", "citations must be enabled for all documents or for none")
        if problem := documents_problem(self.quoted):
            raise field_error("messages", f"documents {problem}")
        if self.called_tools:
            raise field_error("tools", "citations cannot be combined with tools")
        if self.output_format or (self.output_config and self.output_config.format):
            field = "output_format" if self.output_format else "output_config.format"
            raise field_error(field, "citations cannot be combined with an output format")
        if any(isinstance(block, ImageBlock) for message in self.messages for block in message.content):
            raise field_error("messages", "citations cannot be combined with images")
        return self

    def _documents(self) -> list[DocumentBlock]:
        return [block for message in self.messages for block in message.content if isinstance(block, DocumentBlock)]

    @property
    def quoted(self) -> tuple[Document, ...]:
        """The documents that the answer quotes."""
        blocks = [block for block in self._documents() if block.citations and block.citations.enabled]
        return tuple(Document(block.source.data, block.title) for block in blocks)

    max_tokens: Whole = Field(ge=0)
    field_confidence: bool = False
    stop_sequences: list[str] | None = Field(None, max_length=16)
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Whole | None = Field(None, ge=0)
    metadata: dict[str, Any] | None = None

    def sampling_params(self) -> SamplingParams:
        """Return the given parameters, with defaults for the rest."""
        new = self.output_config and self.output_config.format
        form, field = (new, "output_config.format") if new else (self.output_format, "output_format")
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": tuple(self.stop_sequences or ()),
            "grammar": schema_grammar(form.definition, field) if form else None,
            "confidence": "field_confidence" if self.field_confidence else None,
            "thinking_budget": thinking_budget(
                self.thinking.budget_tokens if self.thinking else None,
                self.output_config.effort if self.output_config else None,
            ),
        }
        return SamplingParams.of(given)
