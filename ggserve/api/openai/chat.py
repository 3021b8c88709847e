"""`POST /v1/chat/completions`, and `/v2/chat/completions`, which streams unless told not to."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.features import require, visible
from ggserve.api.fragments import Fragments
from ggserve.api.openai.objects import chat_logprobs, usage_object
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.streaming import DONE, EventStream, Writer, event, json_response, respond
from ggserve.generation import Citation, Delta
from ggserve.messages import ToolCallDelta

router = APIRouter(route_class=GeneratingRoute, tags=["chat"])
ChatCall = Annotated[Call[ChatRequest], Depends(call_of(ChatRequest))]


@router.post("/v1/chat/completions", responses=EventStream.RESPONSES)
async def chat_completions(call: ChatCall) -> Response:
    """The assistant's next message, whole or streamed."""
    return await _answer(call, stream=bool(call.body.stream))


@router.post("/v2/chat/completions", responses=EventStream.RESPONSES)
async def chat_completions_v2(call: ChatCall) -> Response:
    """The same, for many chats at once: streams unless `"stream": false`."""
    return await _answer(call, stream=call.body.stream is not False)


async def _answer(call: Call[ChatRequest], *, stream: bool) -> Response:
    body, model = call.body, call.model
    require(model, "generation", "model")
    chat = body.chat()
    chat["messages"] = visible(model, chat["messages"], "messages")
    params = body.sampling_params()
    deltas = model.chat(params=params, documents=body.quoted, **chat)
    writer = _ChatWriter(body, model.name, "chat.completion.chunk" if stream else "chat.completion")
    return await respond(call.request, Answers(call.record.watch(deltas), n=params.n), writer, stream=stream)


class _ChatWriter(Writer):
    """Choices with their messages, whole or piece by piece."""

    def __init__(self, body: ChatRequest, model_name: str, kind: str) -> None:
        self._scored = bool(body.logprobs)
        self._logprobs: defaultdict[int, Fragments] = defaultdict(Fragments)  # by choice
        self._legacy = body.is_legacy
        self._usage = body.include_usage
        self._cites = bool(body.quoted)
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model_name,
        }

    def begin(self, answers: Answers, first: Delta) -> Iterator[bytes]:
        for answer in answers.all:
            yield self._chunk(answer, {"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> Iterator[bytes]:
        answer, delta, _ = piece
        logprobs = {"content": chat_logprobs(delta.tokens), "refusal": None} if self._scored else None
        for part in _parts(delta, self._legacy):
            yield self._chunk(answer, part, logprobs)
            logprobs = None
        if delta.citation:
            yield self._chunk(answer, {"citations": [_citation(*answer.citations[-1])]})
        if delta.finish_reason:
            yield self._chunk(answer, {}, finish_reason=self._reason(answer))

    def collect(self, piece: Piece) -> None:
        if self._scored:
            self._logprobs[piece.answer.index].add(chat_logprobs(piece.delta.tokens))

    def end(self, answers: Answers) -> Iterator[bytes]:
        if self._usage:
            yield event({**self._head, "choices": [], "usage": usage_object(answers.usage)})
        yield DONE

    def whole(self, answers: Answers) -> Response:
        choices = [self._choice(answer) for answer in answers.all]
        return json_response({**self._head, "choices": choices, "usage": usage_object(answers.usage)})

    def _chunk(
        self, answer: Answer, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": answer.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        if finish_reason and answer.last.confidence:
            choice |= answer.last.confidence
        return event({**self._head, "choices": [choice], **({"usage": None} if self._usage else {})})

    def _choice(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
                for call in answer.calls
            ]
            made = {"function_call": calls[0]["function"]} if self._legacy else {"tool_calls": calls}
            message |= {"content": answer.text or None, **made}
        if self._cites:
            message["citations"] = [_citation(*found) for found in answer.citations]
        return {
            "index": answer.index,
            "message": message,
            "logprobs": {"content": self._logprobs[answer.index].json, "refusal": None} if self._scored else None,
            "finish_reason": self._reason(answer),
            **(answer.last.confidence or {}),
        }

    def _reason(self, answer: Answer) -> str | None:
        reason = answer.last.finish_reason
        return "function_call" if self._legacy and reason == "tool_calls" else reason


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


def _citation(place: int, citation: Citation) -> dict[str, Any]:
    """Where the quotation is in the message's content, and where in its document."""
    return {
        "start_index": place,
        "end_index": place + len(citation.text),
        "document_index": citation.document,
        "document_title": citation.title,
        "start_char_index": citation.start,
        "end_char_index": citation.end,
        "cited_text": citation.text,
    }


def _call_chunk(call: ToolCallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
