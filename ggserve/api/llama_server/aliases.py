"""Alternative paths of llama-server and vLLM for other endpoints, with llama-server's wider limits."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from ggserve import __version__
from ggserve.api import status
from ggserve.api.admission import EmbeddingRoute, GeneratingRoute
from ggserve.api.bodies import JSONRoute
from ggserve.api.call import Call, call_of
from ggserve.api.features import require, visible
from ggserve.api.llama_server.schemas import EmbeddingRequest, WideChatRequest, WideCompletionRequest
from ggserve.api.openai.chat import respond_to_chat
from ggserve.api.openai.completions import respond_to_completion
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.streaming import EventStream, json_response, while_connected

router = APIRouter(tags=["llama-server"])
_generating = APIRouter(route_class=GeneratingRoute)
_embedding = APIRouter(route_class=EmbeddingRoute)
_counting = APIRouter(route_class=JSONRoute)
CompletionCall = Annotated[Call[WideCompletionRequest], Depends(call_of(WideCompletionRequest))]


@_generating.post("/chat/completions", responses=EventStream.RESPONSES)
async def chat(call: Annotated[Call[WideChatRequest], Depends(call_of(WideChatRequest))]) -> Response:
    """Same as `/v1/chat/completions`."""
    return await respond_to_chat(call, stream=bool(call.body.stream))


@_generating.post("/completions", responses=EventStream.RESPONSES)
async def completions(
    call: Annotated[Call[WideCompletionRequest], Depends(call_of(WideCompletionRequest))],
) -> Response:
    """Same as `/v1/completions`."""
    return await respond_to_completion(call)


@_embedding.post("/embedding")
@_embedding.post("/embeddings")
async def embedding(call: Annotated[Call[EmbeddingRequest], Depends(call_of(EmbeddingRequest))]) -> Response:
    """The embedding of each input in llama-server's form: a list of vectors for each input, with one element."""
    require(call.model, "embeddings", "model")
    found = await while_connected(call.request, call.model.embed(call.body.inputs))
    items = [{"index": index, "embedding": [each.vector.tolist()]} for index, each in enumerate(found)]
    return json_response(items)


@_counting.post("/v1/chat/completions/input_tokens")
@_counting.post("/chat/completions/input_tokens")
async def input_tokens(call: Annotated[Call[ChatRequest], Depends(call_of(ChatRequest))]) -> dict[str, Any]:
    """The number of tokens in the prompt that the same body makes in `/v1/chat/completions`."""
    body, model = call.body, call.model
    chat = body.chat()
    chat["messages"] = visible(model, chat["messages"], "messages", counted=True)
    count = await model.count_chat(**chat)
    return {"object": "response.input_tokens", "input_tokens": count}


@router.get("/v1/health", openapi_extra={"security": [{}]})
async def health(request: Request) -> Response:
    """Same as `/health`."""
    return await status.health(request)


@router.get("/version")
async def version() -> dict[str, str]:
    """The server's version, at vLLM's path."""
    return {"version": __version__}


router.include_router(_generating)
router.include_router(_embedding)
router.include_router(_counting)
