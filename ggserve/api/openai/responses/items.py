"""What a conversation of the Responses API consists of, validated: messages, thoughts, calls and their results."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from ggserve.api.fields import Strict
from ggserve.api.openai.images import check_image


def _as_parts(content: Any) -> Any:
    """A text is short for one part; one form keeps the places that errors name short too."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("must be a text or a list of content parts")
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


def _refuse_images(parts: Sequence[Any]) -> None:
    if any(isinstance(part, ImagePart) for part in parts):
        raise ValueError("images are not supported here, only in a user's message")


class MessageItem(Strict):
    type: Literal["message"]
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts

    @model_validator(mode="after")
    def _user_shows_images(self) -> "MessageItem":
        if self.role != "user":
            _refuse_images(self.content)
        return self


class Thought(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Thought] = Field(default_factory=list)
    content: list[Thought] | None = None


class CallItem(Strict):
    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    arguments: str


class CallOutputItem(Strict):
    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str
    output: Parts

    @model_validator(mode="after")
    def _no_images(self) -> "CallOutputItem":
        _refuse_images(self.output)
        return self


class ItemReference(Strict):
    type: Literal["item_reference"]
    id: str


def _typed(item: Any) -> Any:
    """The types that OpenAI's clients leave out."""
    if isinstance(item, dict) and item.get("type") is None:
        return {**item, "type": "message" if "role" in item else "item_reference"}
    return item


Item = Annotated[
    MessageItem | ReasoningItem | CallItem | CallOutputItem | ItemReference,
    Field(discriminator="type"),
    BeforeValidator(_typed),
]
ITEM: TypeAdapter[Item] = TypeAdapter(Item)

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


def new_id(kind: str) -> str:
    """An id for an item of some type."""
    return f"{_PREFIXES[kind]}_{uuid.uuid4().hex}"


def listed(item: Item) -> dict[str, Any]:
    """The item as JSON, with an id."""
    fields = item.model_dump(exclude_none=True)
    if item.type == "message":
        fields["status"] = "completed"
    return {**fields, "id": item.id or new_id(item.type)}
