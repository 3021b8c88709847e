"""`POST /v1/embeddings`: each text as a vector of length 1."""

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from api.dependencies import Model, require
from api.errors import APIError
from api.schemas import TokenId
from api.streaming import json_response, while_connected
from engine.base import Embedding

router = APIRouter(tags=["embeddings"])

MAX_INPUTS = 2048  # as OpenAI's API


class EmbeddingsRequest(BaseModel):
    """OpenAI's request body."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    input: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str] | list[list[TokenId]], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == "" or (isinstance(value, list) and any(item in ("", []) for item in value)):
            raise ValueError("an input is empty")
        return value

    @property
    def inputs(self) -> list[Any]:
        """The inputs, each a text or token ids."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsRequest, request: Request, model: Model) -> Response:
    """The embedding of the input, or of each of several."""
    require(model, "embeddings", "model")
    if body.dimensions is not None:
        raise APIError(
            400, "dimensions is not supported: vectors come whole", param="dimensions", code="unsupported_parameter"
        )
    found = await while_connected(request, model.embed(body.inputs))
    tokens = sum(embedding.prompt_tokens for embedding in found)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(embedding, body.encoding_format)}
        for index, embedding in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": model.name, "usage": usage})


def _encoded(embedding: Embedding, form: str | None) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(embedding.vector.astype("<f4").tobytes()).decode()
    vector: list[float] = embedding.vector.tolist()
    return vector
