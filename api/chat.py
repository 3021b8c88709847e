"""`POST /v1/chat/completions`, and `/v2/chat/completions`, which streams unless told not to."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from api.access import RequestRecord
from api.dependencies import Model, Record
from api.schemas import ChatRequest
from api.streaming import EventStream, event, guarded, json_response, started, usage, while_connected
from engine.base import Delta
from model import GGUFModel

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, model: Model, record: Record) -> Response:
    """The assistant's next message, whole or streamed."""
    return await _answer(body, request, model, record, stream=bool(body.stream))


@router.post("/v2/chat/completions")
async def chat_completions_v2(body: ChatRequest, request: Request, model: Model, record: Record) -> Response:
    """The same, for many chats at once: streams unless `"stream": false`."""
    return await _answer(body, request, model, record, stream=body.stream is not False)


async def _answer(
    body: ChatRequest, request: Request, model: GGUFModel, record: RequestRecord, *, stream: bool
) -> Response:
    messages = [message.template_message() for message in body.messages]
    deltas = record.watch(model.chat(messages, body.sampling_params()))
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if stream:
        running = await while_connected(request, started(deltas))
        return EventStream(guarded(_events(running, head, include_usage=body.include_usage)))
    text, last = await while_connected(request, _collected(deltas))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": last.finish_reason,
    }
    return json_response({**head, "choices": [choice], "usage": usage([last])})


async def _collected(deltas: AsyncGenerator[Delta, None]) -> tuple[str, Delta]:
    texts = []
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.text)
    return "".join(texts), delta


async def _events(
    deltas: AsyncGenerator[Delta, None], head: dict[str, Any], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **usage_field})

    usage_field = {"usage": None} if include_usage else {}
    yield chunk({"role": "assistant", "content": ""})
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.text:
                yield chunk({"content": delta.text})
    yield chunk({}, delta.finish_reason)
    if include_usage:
        yield event({**head, "choices": [], "usage": usage([delta])})
