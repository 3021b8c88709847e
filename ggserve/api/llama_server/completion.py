"""`POST /completion`, llama-server's own: prompts as texts or token ids, and everything about their answers."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require
from ggserve.api.llama_server.limits import limited
from ggserve.api.llama_server.objects import final_object, probabilities, settings_object
from ggserve.api.llama_server.schemas import NativeRequest
from ggserve.api.streaming import EventStream, Writer, event, json_response, respond
from ggserve.api.timings import timings
from ggserve.generation import SamplingParams, ScoredToken
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["completions"])
NativeCall = Annotated[Call[NativeRequest], Depends(call_of(NativeRequest))]


@router.post("/completion", responses=EventStream.RESPONSES)
async def completion(call: NativeCall) -> Response:
    """The continuation of a prompt, whole or as events; a list of them for several prompts or answers."""
    body, model, record = call.body, call.model, call.record
    require(model, "generation", "model")
    record.limits.check_prompts(len(body.prompts))
    params = body.sampling_params()
    prompts = [_prompt(model, prompt) for prompt in body.prompts]
    streams = [
        record.watch(limited(model.complete(prompt, params), body.n_indent, body.seconds), params.max_tokens)
        for prompt in prompts
    ]
    answers = Answers(*streams, n=params.n, at_once=max(1, model.parallel - 1))  # a slot is left for others
    writer = _NativeWriter(body, params, prompts, model, record.started)
    return await respond(call.request, answers, writer, stream=body.stream)


def _prompt(model: GGUFModel, prompt: str | Sequence[str | int]) -> str | list[int]:
    """A prompt whose texts are tokenized where they stand beside token ids."""
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

    def piece(self, piece: Piece) -> Iterator[bytes]:
        answer, delta, body = piece.answer, piece.delta, self._body
        if delta.finish_reason is not None:
            yield event(self._final(piece.answers, answer, delta.text, delta.tokens, streamed=True))
            return
        shown: dict[str, Any] = {
            "index": answer.index,
            "content": delta.text,
            "tokens": [token.id for token in delta.tokens],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": delta.completion_tokens,
            "tokens_evaluated": delta.prompt_tokens,
        }
        if body.timings_per_token:
            shown["timings"] = timings(piece.answers, self._started)
        if body.n_probs:
            shown["completion_probabilities"] = probabilities(delta.tokens, sampled=body.post_sampling_probs)
        yield event(shown)

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield event(error.body, "error")

    def whole(self, answers: Answers) -> Response:
        found = [self._final(answers, answer, answer.text, answer.tokens) for answer in answers.all]
        return json_response(found if self._body.is_list else found[0])

    def _final(
        self, answers: Answers, answer: Answer, text: str, tokens: Sequence[ScoredToken], *, streamed: bool = False
    ) -> dict[str, Any]:
        body = self._body
        final = final_object(answer, text, self._model, timings(answers, self._started))
        final |= {
            "tokens": [token.id for token in tokens] if streamed or body.return_tokens else [],
            "generation_settings": self._settings,
            "prompt": self._text(answer.index // body.n_cmpl),
        }
        if body.n_probs:
            final["completion_probabilities"] = probabilities(tokens, sampled=body.post_sampling_probs)
        return _fields(final, body.response_fields) if body.response_fields else final

    def _text(self, index: int) -> str:
        prompt = self._prompts[index]
        return prompt if isinstance(prompt, str) else self._model.detokenize(prompt, skip_special=False)


def _fields(final: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The fields of these names; `a/b` is a field of another, and comes by its own name."""
    found = {}
    for name in names:
        value: Any = final
        for part in name.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[name.rpartition("/")[2]] = value
    return found


_MISSING = object()
