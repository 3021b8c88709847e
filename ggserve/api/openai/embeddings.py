"""`POST /v1/embeddings`: embeddings of length 1."""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import EmbeddingRoute
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require
from ggserve.api.openai.schemas.embeddings import EmbeddingsRequest
from ggserve.api.streaming import json_response, while_connected
from ggserve.generation import Embedding

router = APIRouter(route_class=EmbeddingRoute, tags=["embeddings"])


@router.post("/v1/embeddings")
async def embeddings(call: Annotated[Call[EmbeddingsRequest], Depends(call_of(EmbeddingsRequest))]) -> Response:
    """The embedding of the input, or of each input."""
    body, model = call.body, call.model
    require(model, "embeddings", "model")
    found = await while_connected(call.request, model.embed(body.inputs))
    size = len(found[0].vector)
    if body.dimensions not in (None, size):
        message = f"dimensions must be {size}: this model's embeddings cannot be shortened"
        raise APIError(400, message, param="dimensions", code="unsupported_parameter")
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
