"""`POST /v1/completions`: one choice for each prompt, whole, as events, or as plain text."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from api.admission import GeneratingRoute
from api.dependencies import Generator, Record, require
from api.errors import APIError, api_error
from api.openai.schemas import CompletionRequest
from api.streaming import EventStream, event, guarded, json_response, merged, started, usage, while_connected
from engine.contract import Delta

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])

IndexedDeltas = AsyncGenerator[tuple[int, Delta], None]


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request, model: Generator, record: Record) -> Response:
    """The continuation of a prompt, or of each of several. `Accept: text/plain` gives the bare text."""
    require(model, "generation", "model")
    params = body.sampling_params()
    deltas = merged([record.watch(model.complete(prompt, params)) for prompt in body.prompts], model.parallel)
    plain = "text/plain" in request.headers.get("accept", "")
    if plain and len(body.prompts) > 1:
        raise APIError(400, "Plain text has room for one prompt only.", param="prompt")
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if body.stream:
        running = await while_connected(request, started(deltas))
        if plain:
            return EventStream(_plain(running), media_type="text/plain")
        return EventStream(guarded(_events(running, head, include_usage=body.include_usage)))
    texts, lasts = await while_connected(request, _collected(deltas))
    if plain:
        return PlainTextResponse(texts[0])
    choices = [_choice(index, texts[index], lasts[index].finish_reason) for index in sorted(texts)]
    return json_response({**head, "choices": choices, "usage": usage(lasts.values())})


async def _collected(deltas: IndexedDeltas) -> tuple[dict[int, str], dict[int, Delta]]:
    """By index, the whole text and the last delta."""
    parts: dict[int, list[str]] = {}
    lasts: dict[int, Delta] = {}
    async with aclosing(deltas):
        async for index, delta in deltas:
            parts.setdefault(index, []).append(delta.text)
            lasts[index] = delta
    return {index: "".join(texts) for index, texts in parts.items()}, lasts


async def _events(deltas: IndexedDeltas, head: dict[str, Any], *, include_usage: bool) -> AsyncGenerator[bytes, None]:
    usage_field = {"usage": None} if include_usage else {}
    lasts: dict[int, Delta] = {}
    async with aclosing(deltas):
        async for index, delta in deltas:
            lasts[index] = delta
            yield event({**head, "choices": [_choice(index, delta.text, delta.finish_reason)], **usage_field})
    if include_usage:
        yield event({**head, "choices": [], "usage": usage(lasts.values())})


async def _plain(deltas: IndexedDeltas) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        try:
            async for _, delta in deltas:
                yield delta.text.encode()
        except Exception as error:
            yield f"\n[error: {api_error(error)}]\n".encode()


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
