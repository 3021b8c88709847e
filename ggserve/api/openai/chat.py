"""`POST /v1/chat/completions`, and `/v2/chat/completions`, which streams unless told not to."""

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from ggserve.api.access import RequestRecord
from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers, Choice
from ggserve.api.dependencies import Generator, Record, require
from ggserve.api.openai.objects import chat_logprobs, usage_object
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.streaming import EventStream, await_first, event, guarded, json_response, while_connected
from ggserve.generation import Delta
from ggserve.messages import ToolCallDelta
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["chat"])


@router.post("/v1/chat/completions", responses=EventStream.RESPONSES)
async def chat_completions(body: ChatRequest, request: Request, model: Generator, record: Record) -> Response:
    """The assistant's next message, whole or streamed."""
    return await _answer(body, request, model, record, stream=bool(body.stream))


@router.post("/v2/chat/completions", responses=EventStream.RESPONSES)
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
    params = body.sampling_params()
    deltas = model.chat(messages, params, tools=body.called_tools, template_arguments=body.template_arguments)
    answers = Answers([record.watch(deltas)], n=params.n)
    scored = params.logprobs is not None
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if stream:
        pieces = await while_connected(request, await_first(answers.streamed()))
        return EventStream(
            guarded(_events(pieces, answers, head, scored, body.is_legacy, include_usage=body.include_usage))
        )
    choices = await while_connected(request, answers.collected())
    usage = usage_object(answers.usage)
    return json_response(
        {**head, "choices": [_whole(choice, scored, body.is_legacy) for choice in choices], "usage": usage}
    )


def _whole(choice: Choice, scored: bool, legacy: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
        made = {"function_call": calls[0]["function"]} if legacy else {"tool_calls": calls}
        message |= {"content": choice.text or None, **made}
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(choice.tokens) if scored else None,
        "finish_reason": _reason(choice.finish_reason, legacy),
    }


async def _events(
    pieces: AsyncGenerator[tuple[Choice, Delta], None],
    answers: Answers,
    head: dict[str, Any],
    scored: bool,
    legacy: bool,
    *,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **usage_field})

    usage_field = {"usage": None} if include_usage else {}
    for choice in answers.choices:
        yield chunk(choice.index, {"role": "assistant", "content": ""})
    async with aclosing(pieces):
        async for choice, delta in pieces:
            logprobs = chat_logprobs(delta.tokens) if scored else None
            for part in _parts(delta, legacy):
                yield chunk(choice.index, part, logprobs)
                logprobs = None
            if delta.finish_reason:
                yield chunk(choice.index, {}, finish_reason=_reason(delta.finish_reason, legacy))
    if include_usage:
        yield event({**head, "choices": [], "usage": usage_object(answers.usage)})


def _parts(delta: Delta, legacy: bool) -> Iterator[dict[str, Any]]:
    if delta.text:
        yield {"content": delta.text}
    if delta.reasoning:
        yield {"reasoning_content": delta.reasoning}
    if delta.tool_calls and legacy:
        for call in delta.tool_calls:
            yield {"function_call": _call_chunk(call)["function"]}
    elif delta.tool_calls:
        yield {"tool_calls": [_call_chunk(call) for call in delta.tool_calls]}


def _reason(reason: str | None, legacy: bool) -> str | None:
    return "function_call" if legacy and reason == "tool_calls" else reason


def _call_chunk(call: ToolCallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
