"""`POST /v1/completions`: the request body."""

from typing import Any

from pydantic import field_validator

from api.openai.schemas.generation import UNSUPPORTED, GenerationRequest, TokenId

# Fields of chats only.
_CHAT_FIELDS: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
}


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    unsupported = UNSUPPORTED | _CHAT_FIELDS

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
