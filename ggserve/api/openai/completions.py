"""`POST /v1/completions`: choices for each prompt, complete, streamed, or as plain text."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require, require_infill
from ggserve.api.openai.objects import FINGERPRINT, CompletionLogprobs, prompt_logprobs, stop_reason, usage_object
from ggserve.api.openai.schemas.completions import CompletionRequest
from ggserve.api.streaming import DONE, EventStream, Writer, event, json_response, respond
from ggserve.api.timings import timings
from ggserve.generation import Delta
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])
Request = TypeVar("Request", bound=CompletionRequest)


@router.post("/v1/completions", responses=EventStream.RESPONSES)
async def completions(call: Annotated[Call[CompletionRequest], Depends(call_of(CompletionRequest))]) -> Response:
    """The continuation of a prompt, or the text between it and a `suffix`; for several prompts, one for each.

    `Accept: text/plain` returns the text only.
    """
    return await respond_to_completion(call)


async def respond_to_completion(call: Call[Request]) -> Response:
    """Return the response to a completion."""
    body, model, record = call.body, call.model, call.record
    require(model, "generation", "model")
    record.limits.check_prompts(len(body.prompts))
    params = body.sampling_params()
    if suffix := body.suffix:
        require_infill(model, "suffix")
        streams = [record.watch(partial(model.infill, prompt, suffix), params) for prompt in body.prompts]
    else:
        streams = [record.watch(partial(model.complete, prompt), params) for prompt in body.prompts]
    answers = Answers(*streams, n=params.n, at_once=max(1, model.parallel - 1))  # leave a slot for other requests
    plain = "text/plain" in call.request.headers.get("accept", "")
    if plain and (len(body.prompts) > 1 or (body.n or 1) > 1):
        raise APIError(400, "Plain text can contain only one answer.", param="prompt")
    writer = (_PlainWriter if plain else _CompletionWriter)(body, model, record.started)
    if body.return_progress and not plain:
        writer.prompts = record.prompts
    return await respond(call.request, answers, writer, stream=bool(body.stream))


class _CompletionWriter(Writer):
    """Writes choices, complete or in pieces. The first piece has the prompt's part of `echo` and `logprobs`."""

    def __init__(self, body: CompletionRequest, model: GGUFModel, started: float) -> None:
        self._body = body
        self._started = started
        texts = [prompt if isinstance(prompt, str) else model.detokenize(prompt) for prompt in body.prompts]
        self._prompts = texts if body.echo else [""] * len(texts)
        self._n = body.n or 1  # choices per prompt
        self._best = body.best
        self._scored = body.scored is not None
        self._usage = body.include_usage
        self._logprobs: dict[Answer, CompletionLogprobs] = {}  # for answers that have begun
        self._ids: defaultdict[Answer, list[int]] = defaultdict(list)
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": FINGERPRINT,
        }

    def progress(self, answers: Answers, progress: dict[str, int]) -> bytes:
        choice = self._choice(answers.all[0], "", None)
        return event({**self._head, "choices": [choice], "prompt_progress": progress})

    def piece(self, piece: Piece) -> Iterator[bytes]:
        answer, delta, body = piece.answer, piece.delta, self._body
        first = answer not in self._logprobs
        scores = self._scores(piece)
        more = self._first_fields(answer) if first else {}
        if body.return_token_ids:
            more["token_ids"] = [token.id for token in delta.tokens]
        text = (self._prompt_of(answer) if first else "") + delta.text
        choice = {**self._choice(answer, text, scores if self._scored else None), **more}
        told = body.timings_per_token or (delta.finish_reason and not self._usage)
        times = {"timings": timings(piece.answers, self._started)} if told else {}
        yield event({**self._head, "choices": [choice], **({"usage": None} if self._usage else {}), **times})

    def collect(self, piece: Piece) -> None:
        if self._scored:
            scores = self._scores(piece)
            self._logprobs[piece.answer].keep(scores)
        if self._body.return_token_ids:
            self._ids[piece.answer] += [token.id for token in piece.delta.tokens]

    def end(self, answers: Answers) -> Iterator[bytes]:
        if self._usage:
            times = timings(answers, self._started)
            yield event({**self._head, "choices": [], "usage": usage_object(answers.usage), "timings": times})
        yield DONE

    def whole(self, answers: Answers) -> Response:
        kept = answers.all if self._best is None else answers.best(self._best)
        choices = []
        for answer in kept:
            logprobs = self._logprobs[answer].json if self._scored else None
            choice = self._choice(answer, self._prompt_of(answer) + answer.text, logprobs)
            ids = {"token_ids": self._ids[answer]} if self._body.return_token_ids else {}
            choices.append({**choice, **self._first_fields(answer), **ids})
        usage, times = usage_object(answers.usage), timings(answers, self._started)
        return json_response({**self._head, "choices": choices, "usage": usage, "timings": times})

    def _choice(self, answer: Answer, text: str, logprobs: Any) -> dict[str, Any]:
        reason = answer.last.finish_reason
        choice = {"index": answer.index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**choice, **stop_reason(answer.last), **(answer.last.confidence or {})}

    def _first_fields(self, answer: Answer) -> dict[str, Any]:
        """Return the fields of a choice about its prompt."""
        body = self._body
        fields: dict[str, Any] = {"prompt_token_ids": answer.prompt_ids} if body.return_token_ids else {}
        if body.prompt_logprobs is not None:
            fields["prompt_logprobs"] = prompt_logprobs(answer.prompt, body.prompt_logprobs)
        return fields

    def _scores(self, piece: Piece) -> dict[str, Any]:
        """Return the log-probabilities of a piece; the first piece includes the echoed prompt's."""
        answer, delta = piece.answer, piece.delta
        if answer in self._logprobs:
            return self._logprobs[answer].of(delta.tokens)
        self._logprobs[answer] = first = CompletionLogprobs(by_id=bool(self._body.return_tokens_as_token_ids))
        return first.of([*answer.prompt, *delta.tokens] if self._body.echo else delta.tokens)

    def _prompt_of(self, answer: Answer) -> str:
        return self._prompts[answer.index // self._n]


class _PlainWriter(_CompletionWriter):
    """Writes the text of the only answer."""

    media_type = "text/plain"
    keep_alive = None

    def begin(self, answers: Answers, first: Delta) -> Iterable[bytes]:
        return (self._prompts[0].encode(),)

    def piece(self, piece: Piece) -> Iterator[bytes]:
        yield piece.delta.text.encode()

    def end(self, answers: Answers) -> Iterator[bytes]:
        yield from ()

    def fail(self, error: APIError) -> Iterable[bytes]:
        return (f"\n[error: {error}]\n".encode(),)

    def whole(self, answers: Answers) -> Response:
        return PlainTextResponse(self._prompts[0] + answers.all[0].text)
