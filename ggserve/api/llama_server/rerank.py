"""`POST /v1/rerank`, the rerank endpoint of llama-server and Jina: documents by relevance to a query."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BeforeValidator, Field

from ggserve.api.admission import GeneratingRoute
from ggserve.api.call import Call, call_of
from ggserve.api.features import require
from ggserve.api.fields import ModelRequest, Whole
from ggserve.api.streaming import json_response, while_connected

router = APIRouter(route_class=GeneratingRoute, tags=["rerank"])


def _text(document: Any) -> Any:
    return document["text"] if isinstance(document, dict) and "text" in document else document


class RerankRequest(ModelRequest):
    """A query and documents, which are strings or objects with a `text`."""

    prompt_field = "documents"

    query: str
    documents: Annotated[list[Annotated[str, BeforeValidator(_text)]], Field(min_length=1, max_length=2048)]
    top_n: Whole | None = Field(None, ge=1)
    return_documents: bool | None = None


@router.post("/v1/rerank")
@router.post("/v1/reranking")
@router.post("/rerank")
@router.post("/reranking")
async def rerank(call: Annotated[Call[RerankRequest], Depends(call_of(RerankRequest))]) -> Response:
    """The documents, the most relevant first, with the model's own scores."""
    body, model = call.body, call.model
    require(model, "rerank", "model")
    ranking = await while_connected(call.request, model.rerank(body.query, body.documents))
    order = sorted(range(len(body.documents)), key=lambda index: ranking.scores[index], reverse=True)
    results = [
        {
            "index": index,
            "relevance_score": ranking.scores[index],
            **({"document": {"text": body.documents[index]}} if body.return_documents else {}),
        }
        for index in order[: body.top_n]
    ]
    usage = {"prompt_tokens": ranking.prompt_tokens, "total_tokens": ranking.prompt_tokens}
    return json_response({"object": "list", "model": model.name, "results": results, "usage": usage})
