"""`POST /v1/completions`: choices for each prompt, whole, as events, or as plain text."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers, Choice
from ggserve.api.dependencies import Generator, Record, require, require_infill
from ggserve.api.errors import APIError, api_error
from ggserve.api.openai.objects import CompletionLogprobs, usage_object
from ggserve.api.openai.schemas.completions import CompletionRequest
from ggserve.api.streaming import EventStream, await_first, event, guarded, json_response, while_connected
from ggserve.generation import Delta, ScoredToken
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])

Pieces = AsyncGenerator[tuple[Choice, Delta], None]


@router.post("/v1/completions", responses=EventStream.RESPONSES)
async def completions(body: CompletionRequest, request: Request, model: Generator, record: Record) -> Response:
    """The continuation of a prompt, or what belongs between it and a `suffix`; of several prompts, each one's.

    `Accept: text/plain` gives the bare text."""
    require(model, "generation", "model")
    record.limits.check_prompts(len(body.prompts))
    params = body.sampling_params()
    if suffix := body.suffix:
        require_infill(model, "suffix")
        streams = [record.watch(model.infill(prompt, suffix, params)) for prompt in body.prompts]
    else:
        streams = [record.watch(model.complete(prompt, params)) for prompt in body.prompts]
    answers = Answers(streams, n=params.n, at_once=max(1, model.parallel - 1))  # a slot is left for others
    shape = _Shape(body, model, n=body.n or 1)
    plain = "text/plain" in request.headers.get("accept", "")
    if plain and (len(body.prompts) > 1 or (body.n or 1) > 1):
        raise APIError(400, "Plain text has room for one answer only.", param="prompt")
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.name,
    }
    if body.stream:
        pieces = await while_connected(request, await_first(answers.streamed()))
        if plain:
            return EventStream(_plain(pieces, shape.prompts[0]), media_type="text/plain")
        return EventStream(guarded(_events(pieces, answers, head, shape, include_usage=body.include_usage)))
    choices = await while_connected(request, answers.collected(body.best))
    if plain:
        return PlainTextResponse(shape.prompts[0] + choices[0].text)
    whole = [shape.of(choice, choice.text, choice.tokens) for choice in choices]
    return json_response({**head, "choices": whole, "usage": usage_object(answers.usage)})


class _Shape:
    """How choices look, whole or piece by piece: the first piece has what `echo` and `logprobs` say of the prompt."""

    def __init__(self, body: CompletionRequest, model: GGUFModel, n: int) -> None:
        texts = [prompt if isinstance(prompt, str) else model.detokenize(prompt) for prompt in body.prompts]
        self.prompts = texts if body.echo else [""] * len(texts)
        self._n = n  # choices for each prompt
        self._scored = body.logprobs is not None
        self._logprobs: dict[int, CompletionLogprobs] = {}  # by choice, once its first piece was made

    def of(self, choice: Choice, text: str, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        first = choice.index not in self._logprobs
        logprobs = self._logprobs.setdefault(choice.index, CompletionLogprobs())
        if first:
            text = self.prompts[choice.index // self._n] + text
            tokens = [*choice.prompt, *tokens]
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs.of(tokens) if self._scored else None,
            "finish_reason": choice.finish_reason,
        }


async def _events(
    pieces: Pieces, answers: Answers, head: dict[str, Any], shape: _Shape, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    usage_field = {"usage": None} if include_usage else {}
    async with aclosing(pieces):
        async for choice, delta in pieces:
            yield event({**head, "choices": [shape.of(choice, delta.text, delta.tokens)], **usage_field})
    if include_usage:
        yield event({**head, "choices": [], "usage": usage_object(answers.usage)})


async def _plain(pieces: Pieces, prompt: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        try:
            yield prompt.encode()
            async for _, delta in pieces:
                yield delta.text.encode()
        except Exception as error:
            yield f"\n[error: {api_error(error)}]\n".encode()
