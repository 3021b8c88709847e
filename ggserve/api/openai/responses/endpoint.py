"""`POST /v1/responses`, complete or streamed; token counts; and stored responses."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require, visible
from ggserve.api.fitting import fitting
from ggserve.api.openai.responses.conversation import chat_messages
from ggserve.api.openai.responses.items import ITEM, Item, ItemReference, listed
from ggserve.api.openai.responses.schemas import PromptRequest, ResponsesRequest
from ggserve.api.openai.responses.store import ResponseStore
from ggserve.api.openai.responses.writer import ResponseWriter
from ggserve.api.state import state_of
from ggserve.api.streaming import EventStream, json_response, respond
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(tags=["responses"])
_generating = APIRouter(route_class=GeneratingRoute)


async def _response_store(request: Request) -> ResponseStore:
    store = state_of(request.scope).responses
    assert isinstance(store, ResponseStore)
    return store


Store = Annotated[ResponseStore, Depends(_response_store)]


@_generating.post("/v1/responses", responses=EventStream.RESPONSES)
async def responses(
    call: Annotated[Call[ResponsesRequest], Depends(call_of(ResponsesRequest))], store: Store
) -> Response:
    """The model's response to a conversation, complete or streamed."""
    body, model = call.body, call.model
    messages = await _messages(body, model, store)
    input_items = [listed(item) for item in body.input] if body.store else []

    def keep(response: dict[str, Any]) -> None:
        if body.store:
            store.put(response, input_items)

    params = body.sampling_params()
    generate = partial(model.chat, messages, tools=body.called_tools, template_arguments=body.template_arguments)
    writer = ResponseWriter(body, params, model.name, keep)
    return await respond(call.request, Answers(call.record.watch(generate, params)), writer, stream=body.stream)


@_generating.post("/v1/responses/input_tokens")
async def input_tokens(
    call: Annotated[Call[PromptRequest], Depends(call_of(PromptRequest))], store: Store
) -> dict[str, Any]:
    """The number of tokens in the prompt that the same fields make in `/v1/responses`."""
    body, model = call.body, call.model
    messages = await _messages(body, model, store, counted=True)
    count = await model.count_chat(messages, tools=body.called_tools, template_arguments=body.template_arguments)
    return {"object": "response.input_tokens", "input_tokens": count}


@router.get("/v1/responses/{response_id}")
async def response_by_id(response_id: str, store: Store) -> Response:
    """A stored response."""
    return json_response(_kept(response_id, store)[0])


@router.get("/v1/responses/{response_id}/input_items")
async def input_items(
    response_id: str,
    store: Store,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """The input items of a response, without those of the responses before it."""
    items = _kept(response_id, store)[1]
    ordered = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in ordered]
    rest = ordered[ids.index(after) + 1 :] if after in ids else ordered
    page = rest[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return json_response({"object": "list", "data": page, **ends, "has_more": len(rest) > limit})


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, store: Store) -> dict[str, Any]:
    """Delete a stored response."""
    _kept(response_id, store)
    store.delete(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


router.include_router(_generating)


def _kept(response_id: str, store: ResponseStore) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if (found := store.get(response_id)) is None:
        raise APIError(404, f"Response with id {response_id!r} not found.", param="response_id", code="not_found")
    return found


async def _messages(
    body: PromptRequest, model: GGUFModel, store: ResponseStore, *, counted: bool = False
) -> list[dict[str, Any]]:
    require(model, "generation", "model")
    items: list[Item] = []
    if body.previous_response_id:
        earlier = store.conversation(body.previous_response_id)
        if earlier is None:
            message = f"Previous response with id {body.previous_response_id!r} not found."
            raise APIError(400, message, param="previous_response_id", code="previous_response_not_found")
        items += await asyncio.to_thread(lambda: [ITEM.validate_json(item) for item in earlier])
    items += _resolved(body.input, store)
    if not items:
        raise APIError(400, "input: must contain at least one item", param="input", code="missing_required_parameter")
    messages = await asyncio.to_thread(chat_messages, body.instructions, items)  # of many items it takes a while
    messages = visible(model, messages, "input", counted=counted or body.truncation == "auto")
    if body.truncation == "auto":
        return await fitting(model, messages, body.called_tools, body.max_output_tokens)
    return messages


def _resolved(items: list[Item], store: ResponseStore) -> list[Item]:
    """Return the items with references replaced by their items. Each item is read once."""
    found: dict[str, Item] = {}
    for key in {item.id for item in items if isinstance(item, ItemReference)}:
        if (kept := store.item(key)) is None:
            raise APIError(400, f"Item with id {key!r} not found.", param="input", code="item_not_found")
        found[key] = ITEM.validate_json(kept)
    return [found[item.id] if isinstance(item, ItemReference) else item for item in items]
