"""The messages of a chat and their parts."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from ggserve.api.fields import Strict
from ggserve.api.images import check_image


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    """The assistant's refusal, in place of an answer."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class ImageURL(Strict):
    model_config = ConfigDict(extra="allow")

    url: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageURL


_ROLES = {"developer": "system", "function": "tool"}  # the names that all templates know


class Message(Strict):
    """One message of a chat. Unknown fields are passed on to the chat template."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_parts(cls, message: Any) -> Any:
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            for part in message["content"]:
                kind = part.get("type") if isinstance(part, dict) else None
                if kind not in ("text", "refusal", "image_url", None):
                    raise ValueError(f"content of type {kind!r} is not supported, only 'text' and 'image_url'")
                if kind == "image_url" and isinstance(image := part.get("image_url"), dict):
                    check_image(str(image.get("url")))
        return message

    @property
    def has_image(self) -> bool:
        return isinstance(self.content, list) and any(isinstance(part, ImagePart) for part in self.content)

    def template_message(self) -> dict[str, Any]:
        """Return the message in the form of chat templates: content as a string (with images, parts), and older names
        for OpenAI's newer roles."""
        content: Any = self.content or ""
        if self.has_image:
            content = [part.model_dump() for part in content]
        elif isinstance(content, list):
            content = "\n".join(part.text for part in content)
        return {**self._extra(), "role": _ROLES.get(self.role, self.role), "content": content}

    def _extra(self) -> dict[str, Any]:
        """Return the other fields; a legacy function call and its result become a tool call and its result."""
        extra = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if isinstance(call := extra.pop("function_call", None), dict):
            extra["tool_calls"] = [{"id": f"call_{call.get('name')}", "type": "function", "function": call}]
        if self.role == "function":
            extra["tool_call_id"] = f"call_{extra.get('name')}"
        return extra
