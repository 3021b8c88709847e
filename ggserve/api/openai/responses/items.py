"""The items of a conversation in the Responses API, validated: messages, reasoning, tool calls and their results."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from ggserve.api.fields import Strict
from ggserve.api.images import check_image


def _as_parts(content: Any) -> Any:
    """Return content as parts. A string becomes a text part, because a single form keeps the field paths in errors
    short."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of content parts")
    return content


class TextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class ImagePart(Strict):
    type: Literal["input_image"]
    image_url: str | None = None
    detail: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> "ImagePart":
        check_image(self.image_url or "")
        return self


class OtherPart(Strict):
    type: Literal["input_file", "input_audio"]

    @model_validator(mode="after")
    def _refused(self) -> "OtherPart":
        raise ValueError(f"content of type {self.type!r} is not supported, only text")


Parts = Annotated[
    list[Annotated[TextPart | RefusalPart | ImagePart | OtherPart, Field(discriminator="type")]],
    BeforeValidator(_as_parts),
]


class MessageItem(Strict):
    type: Literal["message"]
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class Thought(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Thought] | None = None
    content: list[Thought] | None = None

    @property
    def text(self) -> str:
        """The reasoning, or else its summary."""
        return "\n".join(part.text for part in self.content or self.summary or ())


class CallItem(Strict):
    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class CustomCallItem(Strict):
    """A call of a free-text tool."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    call_id: str
    name: str
    namespace: str | None = None
    input: str


class ShellCallItem(Strict):
    """A call of Codex's shell."""

    type: Literal["local_shell_call"]
    id: str | None = None
    call_id: str
    action: dict[str, Any]


class CallOutputItem(Strict):
    type: Literal["function_call_output", "custom_tool_call_output", "local_shell_call_output"]
    id: str | None = None
    call_id: str
    output: Parts

    @model_validator(mode="before")
    @classmethod
    def _shell_output_has_one_id(cls, item: Any) -> Any:
        if isinstance(item, dict) and item.get("type") == "local_shell_call_output":
            return {"call_id": item.get("id"), **item}
        return item


class HostedItem(Strict):
    """An item of OpenAI's own tools, or a compacted history that only OpenAI can read: skipped."""

    type: Literal[
        "web_search_call",
        "file_search_call",
        "computer_call",
        "computer_call_output",
        "code_interpreter_call",
        "image_generation_call",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "configuration_update",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_list_tools",
        "mcp_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "program",
        "program_output",
        "compaction",
        "compaction_trigger",
    ]
    id: str | None = None


class ItemReference(Strict):
    type: Literal["item_reference"]
    id: str


def _typed(item: Any) -> Any:
    """Add the types that OpenAI's clients leave out."""
    if isinstance(item, dict) and item.get("type") is None:
        return {**item, "type": "message" if "role" in item else "item_reference"}
    return item


Item = Annotated[
    MessageItem
    | ReasoningItem
    | CallItem
    | CustomCallItem
    | ShellCallItem
    | CallOutputItem
    | HostedItem
    | ItemReference,
    Field(discriminator="type"),
    BeforeValidator(_typed),
]
ITEM: TypeAdapter[Item] = TypeAdapter(Item)

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsc",
    "local_shell_call_output": "lsco",
}


def new_id(kind: str) -> str:
    """Return a new id for an item of this kind."""
    return f"{_PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"


def function_name(name: str, namespace: str | None) -> str:
    """Return the name under which the model knows a tool."""
    return f"{namespace}__{name}" if namespace else name


def listed(item: Item) -> dict[str, Any]:
    """Return the item as JSON, with an id."""
    fields = item.model_dump(exclude_none=True)
    if item.type == "message":
        fields["status"] = "completed"
    return {**fields, "id": item.id or new_id(item.type)}
