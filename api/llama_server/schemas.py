"""llama-server's request bodies, validated."""

from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from api.openai.schemas.generation import TokenId
from api.openai.schemas.messages import Message

_LONGEST = 1_000_000  # characters of a text to tokenize


class TokenizeRequest(BaseModel):
    """`add_special`: with the special tokens that the model wants around a text. `parse_special`: the text of a
    special token becomes that token. vLLM says `prompt` and `add_special_tokens` for `content` and `add_special`."""

    model_config = ConfigDict(strict=True)

    content: Annotated[str, Field(max_length=_LONGEST, validation_alias=AliasChoices("content", "prompt"))]
    add_special: Annotated[bool, Field(validation_alias=AliasChoices("add_special", "add_special_tokens"))] = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    tokens: list[TokenId]


class ApplyTemplateRequest(BaseModel):
    messages: Annotated[list[Message], Field(min_length=1)]
