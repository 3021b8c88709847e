"""`POST /completion`, llama-server's own endpoint: prompts as texts or token ids, and all details of their answers."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require
from ggserve.api.fragments import Fragments
from ggserve.api.llama_server.limits import limited
from ggserve.api.llama_server.objects import final_object, probabilities, settings_object
from ggserve.api.llama_server.schemas import NativeRequest
from ggserve.api.streaming import EventStream, Writer, event, json_response, respond
from ggserve.api.timings import timings
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])
NativeCall = Annotated[Call[NativeRequest], Depends(call_of(NativeRequest))]


@router.post("/completion", responses=EventStream.RESPONSES)
async def completion(call: NativeCall) -> Response:
    """The continuation of a prompt, complete or streamed; a list of them for several prompts or answers."""
    body, model, record = call.body, call.model, call.record
    require(model, "generation", "model")
    record.limits.check_prompts(len(body.prompts))
    params = body.sampling_params()
    prompts = [_prompt(model, prompt) for prompt in body.prompts]

    def continued(prompt: str | list[int], given: SamplingParams) -> AsyncGenerator[Delta, None]:
        return limited(model.complete(prompt, given), body.n_indent, body.seconds)

    streams = [record.watch(partial(continued, prompt), params) for prompt in prompts]
    answers = Answers(*streams, n=params.n, at_once=max(1, model.parallel - 1))  # leave a slot for other requests
    writer = _NativeWriter(body, params, prompts, model, record.started)
    if body.return_progress:
        writer.prompts = record.prompts
    return await respond(call.request, answers, writer, stream=body.stream)


def _prompt(model: GGUFModel, prompt: str | Sequence[str | int]) -> str | list[int]:
    """Return a prompt with its texts tokenized in place between token ids."""
    if isinstance(prompt, str):
        return prompt
    ids: list[int] = []
    for number, part in enumerate(prompt):
        ids += [part] if isinstance(part, int) else model.tokenize(part, add_special=number == 0)
    return ids


class _NativeWriter(Writer):
    """Writes answers as llama-server's `/completion` does."""

    def __init__(
        self,
        body: NativeRequest,
        params: SamplingParams,
        prompts: Sequence[str | list[int]],
        model: GGUFModel,
        started: float,
    ) -> None:
        self._body = body
        self._model = model
        self._started = started
        self._prompts = prompts
        self._settings = settings_object(params, model)
        self._ids: defaultdict[Answer, list[int]] = defaultdict(list)
        self._scores: defaultdict[Answer, Fragments] = defaultdict(Fragments)

    def progress(self, answers: Answers, progress: dict[str, int]) -> bytes:
        counts = {"tokens_predicted": 0, "tokens_evaluated": progress["total"]}
        return event({"index": 0, "content": "", "tokens": [], "stop": False, **counts, "prompt_progress": progress})

    def piece(self, piece: Piece) -> Iterator[bytes]:
        answer, delta, body = piece.answer, piece.delta, self._body
        if delta.finish_reason is not None:
            yield event({**self._final(piece.answers, answer, delta.text, _ids(delta)), **self._probabilities(delta)})
            return
        shown: dict[str, Any] = {
            "index": answer.index,
            "content": delta.text,
            "tokens": _ids(delta),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": delta.completion_tokens,
            "tokens_evaluated": delta.prompt_tokens,
        }
        if body.timings_per_token:
            shown["timings"] = timings(piece.answers, self._started)
        yield event({**shown, **self._probabilities(delta)})

    def collect(self, piece: Piece) -> None:
        self._ids[piece.answer] += _ids(piece.delta)
        for entries in self._probabilities(piece.delta).values():
            self._scores[piece.answer].add(entries)

    def _probabilities(self, delta: Delta) -> dict[str, Any]:
        body = self._body
        if not body.n_probs:
            return {}
        return {"completion_probabilities": probabilities(delta.tokens, sampled=body.post_sampling_probs)}

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield event(error.body, "error")

    def whole(self, answers: Answers) -> Response:
        found = [
            {
                **self._final(answers, answer, answer.text, self._ids[answer] if self._body.return_tokens else []),
                **({"completion_probabilities": self._scores[answer].json} if self._body.n_probs else {}),
            }
            for answer in answers.all
        ]
        return json_response(found if self._body.is_list else found[0])

    def _final(self, answers: Answers, answer: Answer, text: str, ids: Sequence[int]) -> dict[str, Any]:
        body = self._body
        final = final_object(answer, text, self._model, timings(answers, self._started))
        final |= {
            "tokens": ids,
            "generation_settings": self._settings,
            "prompt": self._text(answer.index // body.n_cmpl),
        }
        return _fields(final, body.response_fields) if body.response_fields else final

    def _text(self, index: int) -> str:
        prompt = self._prompts[index]
        return prompt if isinstance(prompt, str) else self._model.detokenize(prompt, skip_special=False)


def _ids(delta: Delta) -> list[int]:
    return [token.id for token in delta.tokens]


def _fields(final: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields with these names; `a/b` is a nested field, returned under its own name."""
    found = {}
    for name in names:
        value: Any = final
        for part in name.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[name.rpartition("/")[2]] = value
    return found


_MISSING = object()
