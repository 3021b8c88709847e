"""The messages of a chat, and what they are made of."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator


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
