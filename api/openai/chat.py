"""`POST /v1/chat/completions`, and `/v2/chat/completions`, which streams unless told not to."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from api.access import RequestRecord
from api.admission import GeneratingRoute
from api.dependencies import Generator, Record, require
from api.openai.schemas import ChatRequest
from api.streaming import EventStream, event, guarded, json_response, started, usage, while_connected
from engine.contract import Delta, ToolCallDelta
from model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["chat"])


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, model: Generator, record: Record) -> Response:
    """The assistant's next message, whole or streamed."""
    return await _answer(body, request, model, record, stream=bool(body.stream))


@router.post("/v2/chat/completions")
async def chat_completions_v2(body: ChatRequest, request: Request, model: Generator, record: Record) -> Response:
    """The same, for many chats at once: streams unless `"stream": false`."""
    return await _answer(body, request, model, record, stream=body.stream is not False)


async def _answer(
    body: ChatRequest, request: Request, model: GGUFModel, record: RequestRecord, *, stream: bool
) -> Response:
    require(model, "generation", "model")
    for field, feature in body.needs():
        require(model, feature, field)
    messages = [message.template_message() for message in body.messages]
    deltas = record.watch(model.chat(messages, body.sampling_params(), tools=body.called_tools))
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if stream:
        running = await while_connected(request, started(deltas))
        return EventStream(guarded(_events(running, head, include_usage=body.include_usage)))
    message, last = await while_connected(request, _collected(deltas))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish_reason}
    return json_response({**head, "choices": [choice], "usage": usage([last])})


async def _collected(deltas: AsyncGenerator[Delta, None]) -> tuple[dict[str, Any], Delta]:
    """The whole message and the last delta."""
    texts, thoughts = [], []
    calls: dict[int, dict[str, Any]] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.text)
            thoughts.append(delta.reasoning)
            for piece in delta.tool_calls:
                call = calls.setdefault(
                    piece.index, {"id": piece.id, "type": "function", "function": {"arguments": ""}}
                )
                call["function"] |= {"name": piece.name} if piece.name else {}
                call["function"]["arguments"] += piece.arguments
    text, thought = "".join(texts), "".join(thoughts)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message |= {"content": text or None, "tool_calls": [calls[index] for index in sorted(calls)]}
    return message, delta


async def _events(
    deltas: AsyncGenerator[Delta, None], head: dict[str, Any], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **usage_field})

    usage_field = {"usage": None} if include_usage else {}
    yield chunk({"role": "assistant", "content": ""})
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.reasoning:
                yield chunk({"reasoning_content": delta.reasoning})
            if delta.text:
                yield chunk({"content": delta.text})
            if delta.tool_calls:
                yield chunk({"tool_calls": [_call_chunk(call) for call in delta.tool_calls]})
    yield chunk({}, delta.finish_reason)
    if include_usage:
        yield event({**head, "choices": [], "usage": usage([delta])})


def _call_chunk(call: ToolCallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
