"""`POST /v1/completions`: choices for each prompt, whole, as events, or as plain text."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from api.admission import GeneratingRoute
from api.answers import Answers, Choice
from api.dependencies import Generator, Record, require
from api.errors import APIError, api_error
from api.openai.objects import usage_object
from api.openai.schemas.completions import CompletionRequest
from api.streaming import EventStream, event, guarded, json_response, started, while_connected
from engine.contract import Delta

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])

Pieces = AsyncGenerator[tuple[Choice, Delta], None]


@router.post("/v1/completions", responses=EventStream.RESPONSES)
async def completions(body: CompletionRequest, request: Request, model: Generator, record: Record) -> Response:
    """The continuation of a prompt, or of each of several. `Accept: text/plain` gives the bare text."""
    require(model, "generation", "model")
    record.limits.check_prompts(len(body.prompts))
    params = body.sampling_params()
    streams = [record.watch(model.complete(prompt, params)) for prompt in body.prompts]
    answers = Answers(streams, n=params.n, at_once=max(1, model.parallel - 1))  # a slot is left for others
    plain = "text/plain" in request.headers.get("accept", "")
    if plain and len(answers.choices) > 1:
        raise APIError(400, "Plain text has room for one answer only.", param="prompt")
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if body.stream:
        pieces = await while_connected(request, started(answers.streamed()))
        if plain:
            return EventStream(_plain(pieces), media_type="text/plain")
        return EventStream(guarded(_events(pieces, answers, head, include_usage=body.include_usage)))
    choices = await while_connected(request, answers.collected())
    if plain:
        return PlainTextResponse(choices[0].text)
    usage = usage_object(answers.usage)
    whole = [_choice(choice.index, choice.text, choice.finish_reason) for choice in choices]
    return json_response({**head, "choices": whole, "usage": usage})


async def _events(
    pieces: Pieces, answers: Answers, head: dict[str, Any], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    usage_field = {"usage": None} if include_usage else {}
    async with aclosing(pieces):
        async for choice, delta in pieces:
            yield event({**head, "choices": [_choice(choice.index, delta.text, delta.finish_reason)], **usage_field})
    if include_usage:
        yield event({**head, "choices": [], "usage": usage_object(answers.usage)})


async def _plain(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        try:
            async for _, delta in pieces:
                yield delta.text.encode()
        except Exception as error:
            yield f"\n[error: {api_error(error)}]\n".encode()


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
