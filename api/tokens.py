"""`POST /tokenize`, `/detokenize` and `/apply-template`, named and shaped as in llama.cpp's server.

Plain functions: they run in a thread, because long texts take a while.
"""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.dependencies import Model
from api.schemas import Message, TokenId

router = APIRouter(tags=["tokens"])


class TokenizeRequest(BaseModel):
    """`add_special`: with the special tokens that the model wants around a text. `parse_special`: the text of a
    special token becomes that token."""

    model_config = ConfigDict(strict=True)

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    tokens: list[TokenId]


class ApplyTemplateRequest(BaseModel):
    messages: Annotated[list[Message], Field(min_length=1)]


@router.post("/tokenize")
def tokenize(body: TokenizeRequest, model: Model) -> dict[str, Any]:
    """Token ids of a text; with pieces, the text of each, or its bytes where they are no whole characters."""
    ids = model.tokenize(body.content, add_special=body.add_special, parse_special=body.parse_special)
    if not body.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": token, "piece": _piece(raw)} for token, raw in zip(ids, model.pieces(ids), strict=True)]}


@router.post("/detokenize")
def detokenize(body: DetokenizeRequest, model: Model) -> dict[str, str]:
    """The text of token ids, special tokens included."""
    return {"content": model.detokenize(body.tokens, skip_special=False)}


@router.post("/apply-template")
def apply_template(body: ApplyTemplateRequest, model: Model) -> dict[str, str]:
    """The prompt that the model's chat template makes of messages."""
    return {"prompt": model.render_chat([message.template_message() for message in body.messages])}


def _piece(raw: bytes) -> str | list[int]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
