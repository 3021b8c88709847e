"""`POST /v1/chat/completions`, and `/v2/chat/completions`, which streams by default."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.features import require, visible
from ggserve.api.fragments import Fragments
from ggserve.api.openai.objects import FINGERPRINT, chat_logprobs, prompt_logprobs, stop_reason, usage_object
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.api.streaming import DONE, EventStream, Writer, event, json_response, respond
from ggserve.api.timings import timings
from ggserve.generation import Citation, Delta
from ggserve.messages import ToolCallDelta

router = APIRouter(route_class=GeneratingRoute, tags=["chat"])
Request = TypeVar("Request", bound=ChatRequest)
ChatCall = Annotated[Call[ChatRequest], Depends(call_of(ChatRequest))]


@router.post("/v1/chat/completions", responses=EventStream.RESPONSES)
async def chat_completions(call: ChatCall) -> Response:
    """The assistant's next message, complete or streamed."""
    return await respond_to_chat(call, stream=bool(call.body.stream))


@router.post("/v2/chat/completions", responses=EventStream.RESPONSES)
async def chat_completions_v2(call: ChatCall) -> Response:
    """The same, for many chats in parallel: streams unless `"stream": false`."""
    return await respond_to_chat(call, stream=call.body.stream is not False)


async def respond_to_chat(call: Call[Request], *, stream: bool) -> Response:
    """Return the response to a chat."""
    body, model = call.body, call.model
    require(model, "generation", "model")
    chat = body.chat()
    chat["messages"] = visible(model, chat["messages"], "messages")
    params = body.sampling_params()
    deltas = call.record.watch(lambda given: model.chat(params=given, documents=body.quoted, **chat), params)
    writer = _ChatWriter(
        body, model.name, call.record.started, "chat.completion.chunk" if stream else "chat.completion"
    )
    if body.return_progress:
        writer.prompts = call.record.prompts
    return await respond(call.request, Answers(deltas, n=params.n), writer, stream=stream)


class _ChatWriter(Writer):
    """Writes choices with their messages, complete or in pieces."""

    def __init__(self, body: ChatRequest, model_name: str, started: float, kind: str) -> None:
        self._body = body
        self._started = started
        self._scored = body.scored is not None
        self._logprobs: defaultdict[int, Fragments] = defaultdict(Fragments)  # by choice index
        self._ids: defaultdict[int, list[int]] = defaultdict(list)
        self._legacy = body.is_legacy
        self._usage = body.include_usage
        self._cites = bool(body.quoted)
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model_name,
            "system_fingerprint": FINGERPRINT,
        }

    def progress(self, answers: Answers, progress: dict[str, int]) -> bytes:
        return self._chunk(answers.all[0], {}, more={"prompt_progress": progress})

    def begin(self, answers: Answers, first: Delta) -> Iterator[bytes]:
        ids = {"prompt_token_ids": first.prompt_ids} if self._body.return_token_ids else {}
        for answer in answers.all:
            yield self._chunk(answer, {"role": "assistant", "content": ""}, more=ids)

    def piece(self, piece: Piece) -> Iterator[bytes]:
        answer, delta, body = piece.answer, piece.delta, self._body
        logprobs = {"content": self._entries(delta), "refusal": None} if self._scored else None
        ids = {"token_ids": [token.id for token in delta.tokens]} if body.return_token_ids else {}
        times = {"timings": timings(piece.answers, self._started)} if body.timings_per_token else {}
        for part in _parts(delta, self._legacy):
            yield self._chunk(answer, part, logprobs, ids=ids, more=times)
            logprobs, ids = None, {}
        if delta.citation:
            yield self._chunk(answer, {"citations": [_citation(*answer.citations[-1])]})
        if delta.finish_reason:
            if not self._usage:
                times = {"timings": timings(piece.answers, self._started)}
            yield self._chunk(answer, {}, ids={**ids, **stop_reason(delta)}, ended=self._reason(answer), more=times)

    def collect(self, piece: Piece) -> None:
        if self._scored:
            self._logprobs[piece.answer.index].add(self._entries(piece.delta))
        if self._body.return_token_ids:
            self._ids[piece.answer.index] += [token.id for token in piece.delta.tokens]

    def end(self, answers: Answers) -> Iterator[bytes]:
        if self._usage:
            times = timings(answers, self._started)
            yield event({**self._head, "choices": [], "usage": usage_object(answers.usage), "timings": times})
        yield DONE

    def whole(self, answers: Answers) -> Response:
        body, first = self._body, answers.all[0]
        more: dict[str, Any] = {"prompt_token_ids": first.prompt_ids} if body.return_token_ids else {}
        if body.prompt_logprobs is not None:
            more["prompt_logprobs"] = prompt_logprobs(first.prompt, body.prompt_logprobs)
        choices = [self._choice(answer) for answer in answers.all]
        usage, times = usage_object(answers.usage), timings(answers, self._started)
        return json_response({**self._head, "choices": choices, "usage": usage, "timings": times, **more})

    def _chunk(
        self,
        answer: Answer,
        delta: dict[str, Any],
        logprobs: Any = None,
        *,
        ids: dict[str, Any] | None = None,  # additional fields of the choice
        ended: str | None = None,
        more: dict[str, Any] | None = None,  # additional fields next to `choices`
    ) -> bytes:
        choice = {"index": answer.index, "delta": delta, "logprobs": logprobs, "finish_reason": ended, **(ids or {})}
        if ended and answer.last.confidence:
            choice |= answer.last.confidence
        usage = {"usage": None} if self._usage else {}
        return event({**self._head, "choices": [choice], **usage, **(more or {})})

    def _entries(self, delta: Delta) -> list[dict[str, Any]]:
        return chat_logprobs(delta.tokens, by_id=bool(self._body.return_tokens_as_token_ids))

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
            **stop_reason(answer.last),
            **({"token_ids": self._ids[answer.index]} if self._body.return_token_ids else {}),
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
    """Return the position of a quotation in the message's content and in its document."""
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
