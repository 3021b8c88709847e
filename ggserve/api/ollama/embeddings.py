"""`POST /api/embed`, and the older `/api/embeddings`: embeddings of texts."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import EmbeddingRoute
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require
from ggserve.api.ollama.errors import OLLAMA_ERRORS
from ggserve.api.ollama.schemas import EmbeddingsRequest, EmbedRequest
from ggserve.api.state import state_of
from ggserve.api.streaming import json_response, while_connected
from ggserve.generation import Embedding

router = APIRouter(route_class=EmbeddingRoute, tags=["ollama"], responses=OLLAMA_ERRORS)


@router.post("/api/embed")
async def embed(call: Annotated[Call[EmbedRequest], Depends(call_of(EmbedRequest))]) -> Response:
    """An embedding of length 1 for each text. A text that is too long is truncated, unless `truncate` is false."""
    body, model, record = call.body, call.model, call.record
    _check_name(call)
    require(model, "embeddings", "model")
    began = time.perf_counter()
    found = await while_connected(call.request, model.embed(body.input, truncate=body.truncate is not False))
    if found and body.dimensions and body.dimensions > len(found[0].vector):
        message = f"dimensions: {model.name} makes embeddings with {len(found[0].vector)} dimensions"
        raise APIError(400, message, param="dimensions", code="invalid_dimensions")
    return json_response(
        {
            "model": model.name,
            "embeddings": [_shortened(embedding, body.dimensions) for embedding in found],
            "total_duration": int((time.perf_counter() - record.started) * 1e9),
            "load_duration": int((began - record.started) * 1e9),
            "prompt_eval_count": sum(embedding.prompt_tokens for embedding in found),
        }
    )


@router.post("/api/embeddings")
async def embeddings(call: Annotated[Call[EmbeddingsRequest], Depends(call_of(EmbeddingsRequest))]) -> Response:
    """An embedding of length 1 for a text."""
    body, model = call.body, call.model
    _check_name(call)
    require(model, "embeddings", "model")
    (found,) = await while_connected(call.request, model.embed([body.prompt], truncate=True))
    return json_response({"embedding": _shortened(found, None)})


def _check_name(call: Call[EmbedRequest] | Call[EmbeddingsRequest]) -> None:
    """Raises a 404 where a text is to be embedded by another model: vectors of two models cannot be compared."""
    name = call.body.model
    residents = state_of(call.request.scope).models.residents
    names = {"default", *(name for each in residents if each.model is call.model for name in each.listed.spellings)}
    if name and name.lower() not in names:
        message = f"The model {name!r} is not here. There is: {call.model.name}."
        raise APIError(404, message, param="model", code="model_not_found")


def _shortened(embedding: Embedding, dimensions: int | None) -> list[float]:
    vector = embedding.vector[:dimensions]
    shown: Any = (vector / max(float(np.linalg.norm(vector)), 1e-12)).tolist()
    numbers: list[float] = shown
    return numbers
