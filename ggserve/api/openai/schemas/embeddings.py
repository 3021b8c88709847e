"""`POST /v1/embeddings`: the request body."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ggserve.api.fields import ModelRequest, TokenIds, Whole, one_of

_MAX_INPUTS = 2048  # same as OpenAI's API


class EmbeddingsRequest(ModelRequest):
    """`POST /v1/embeddings`."""

    prompt_field = "input"

    input: Annotated[
        str
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[
            Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)],
            Field(min_length=1, max_length=_MAX_INPUTS),
        ],
        one_of(f"a string, a list of token ids, or a list of up to {_MAX_INPUTS} of either, none of them empty"),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = Field(None, ge=1)
    user: str | None = None

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == "" or (isinstance(value, list) and ("" in value or [] in value)):
            raise ValueError("an input is empty")
        return value

    @property
    def inputs(self) -> list[Any]:
        """The inputs, each a text or token ids."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)
