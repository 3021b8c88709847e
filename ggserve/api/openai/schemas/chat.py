"""`POST /v1/chat/completions`: the request body."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from ggserve.api.fields import Strict, Whole, field_error, one_of, thinking
from ggserve.api.openai.schemas.generation import GenerationRequest
from ggserve.api.openai.schemas.messages import Message
from ggserve.api.openai.schemas.sampling import MAX_LOGPROBS, MaxTokens
from ggserve.api.openai.schemas.tools import Function, FunctionName, NamedTool, Tool, ToolChoice, chosen_tools
from ggserve.generation import Grammar, SamplingParams, schema_grammar
from ggserve.messages import SET_VARIABLES, Document, Tools, documents_problem


class JsonSchema(Strict):
    model_config = ConfigDict(extra="allow")

    definition: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """The format of an answer. `json_object`: any JSON object, or JSON of a `schema` (as in llama-server).
    `json_schema`: JSON of a schema, with or without OpenAI's wrapper."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    bare: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _schema_given(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None and self.bare is None:
            raise ValueError("json_schema is missing")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        if self.json_schema is not None:
            return self.json_schema.definition
        return {"type": "object"} if self.bare is None else self.bare


class TemplateArguments(Strict):
    """Variables for the chat template, as set by clients of vLLM and llama.cpp."""

    model_config = ConfigDict(extra="allow")

    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _are_free(self) -> "TemplateArguments":
        for name in self.model_extra or ():
            if name in SET_VARIABLES:
                raise field_error(
                    "chat_template_kwargs", f"chat_template_kwargs cannot set {name}: use the request's own field"
                )
        return self


class DocumentField(Strict):
    """A document, with its text under one of the names that clients use."""

    model_config = ConfigDict(extra="allow")

    text: Annotated[str, Field(validation_alias=AliasChoices("text", "content", "data"))]
    title: str | None = None


class Citations(Strict):
    enabled: bool = True


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions` and `/v2/chat/completions`."""

    prompt_field = "messages"

    endpoint = "/v1/chat/completions"

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    functions: list[Function] | None = None
    function_call: Annotated[Literal["none", "auto"] | FunctionName, one_of("'none', 'auto' or a name")] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template: Annotated[str, Field(max_length=100_000)] | None = None
    chat_template_kwargs: TemplateArguments | None = None
    continue_final_message: bool | None = None  # None: if the last message is the assistant's, as in llama-server
    add_generation_prompt: bool | None = None  # vLLM's field: False together with continue_final_message
    documents: list[DocumentField] | None = None
    citations: Annotated[bool | Citations, one_of('true, or {"enabled": true}')] | None = None

    @model_validator(mode="after")
    def _logprobs_wanted(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise field_error("top_logprobs", "top_logprobs needs logprobs to be true")
        return self

    @model_validator(mode="after")
    def _message_to_continue(self) -> "ChatRequest":
        if self.continue_final_message and self.messages[-1].role != "assistant":
            message = "continue_final_message requires that the last message is the assistant's"
            raise field_error("continue_final_message", message)
        return self

    @model_validator(mode="after")
    def _choice_of_tools(self) -> "ChatRequest":
        if self.tools and self.functions:
            raise field_error("functions", "functions is the old name of tools: send only one of them")
        try:
            _ = self.called_tools
        except ValueError as error:
            field = "function_call" if self.is_legacy else "tool_choice"
            raise field_error(field, f"{field} {error}") from error
        return self

    @model_validator(mode="after")
    def _can_cite(self) -> "ChatRequest":
        enabled = self.citations.enabled if isinstance(self.citations, Citations) else bool(self.citations)
        if not enabled:
            if self.documents:
                raise field_error("documents", "documents require citations: set citations to true")
            return self
        if not self.documents:
            raise field_error("documents", "citations require documents")
        if problem := documents_problem(self.quoted):
            raise field_error("documents", f"documents {problem}")
        if self.tools or self.functions:
            raise field_error("tools" if self.tools else "functions", "citations cannot be combined with tools")
        if self.held_to is not None or (self.response_format and self.response_format.schema_of_answer is not None):
            raise field_error("citations", "citations cannot be combined with structured output")
        if any(message.has_image for message in self.messages):
            raise field_error("citations", "citations cannot be combined with images")
        if not any(message.role == "user" for message in self.messages):
            raise field_error("messages", "citations require a message from the user")
        return self

    @property
    def quoted(self) -> tuple[Document, ...]:
        """The documents that the answer quotes."""
        return tuple(Document(document.text, document.title) for document in self.documents or ())

    @property
    def is_legacy(self) -> bool:
        """True if the request uses `functions` and its answer `function_call`, instead of tools."""
        return bool(self.functions) or isinstance(self.function_call, FunctionName)

    @property
    def template_arguments(self) -> dict[str, Any]:
        """The variables for the chat template."""
        effort = self.reasoning_effort
        told = self.chat_template_kwargs.model_dump(exclude_none=True) if self.chat_template_kwargs else {}
        return thinking(None if effort is None else effort != "none", effort) | told

    def chat(self) -> dict[str, Any]:
        """Return the arguments for `GGUFModel.chat`, except the sampling parameters."""
        messages = [message.template_message() for message in self.messages]
        last = messages[-1]
        asked = self.continue_final_message or self.add_generation_prompt is False
        refused = self.continue_final_message is False or self.add_generation_prompt
        begun = thought = ""
        if last["role"] == "assistant" and not last.get("tool_calls") and (asked or not refused):
            begun, thought = messages.pop()["content"], last.get("reasoning_content") or ""
        return {
            "messages": messages,
            "tools": self.called_tools,
            "begun": begun,
            "begun_thought": thought,
            "template": self.chat_template or None,
            "template_arguments": self.template_arguments,
        }

    @property
    def called_tools(self) -> Tools | None:
        """The tools that the answer may call."""
        if not self.is_legacy:
            return chosen_tools(self.tools or (), self.tool_choice, parallel=self.parallel_tool_calls is not False)
        tools = [Tool(type="function", function=function) for function in self.functions or ()]
        call = self.function_call
        choice = NamedTool(type="function", function=call) if isinstance(call, FunctionName) else call
        return chosen_tools(tools, choice, parallel=False)

    def grammars(self) -> list[Grammar]:
        schema = self.response_format.schema_of_answer if self.response_format else None
        given = [] if schema is None else [schema_grammar(schema, "response_format")]
        return list(dict.fromkeys(given + super().grammars()))

    @property
    def scored(self) -> int | None:
        """The number of alternatives to return for each token; None: no log-probabilities."""
        return self.top_logprobs or 0 if self.logprobs else self.n_probs or None

    def sampling_params(self) -> SamplingParams:
        params = super().sampling_params()
        if self.max_completion_tokens is not None:
            params = replace(params, max_tokens=self.max_completion_tokens)
        return params if self.scored is None else replace(params, logprobs=self.scored)
