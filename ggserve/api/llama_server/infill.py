"""`POST /infill`, llama-server's fill-in-the-middle endpoint, which editor plugins use."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require, require_infill
from ggserve.api.fragments import Fragments
from ggserve.api.llama_server.limits import limited
from ggserve.api.llama_server.objects import final_object, probabilities, settings_object
from ggserve.api.llama_server.schemas import InfillRequest
from ggserve.api.streaming import EventStream, Writer, event, json_response, respond
from ggserve.api.timings import timings
from ggserve.generation import SamplingParams, ScoredToken
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["infill"])


@router.post("/infill", responses=EventStream.RESPONSES)
async def infill(call: Annotated[Call[InfillRequest], Depends(call_of(InfillRequest))]) -> Response:
    """The middle of a text, complete or streamed; the last event says `stop`."""
    body, model = call.body, call.model
    require(model, "generation", "model")
    require_infill(model, "input_suffix")
    prefix = body.input_prefix + body.prompt
    params = body.sampling_params()
    generated = call.record.watch(
        lambda given: model.infill(prefix, body.input_suffix, given, files=body.files), params
    )
    deltas = limited(generated, body.n_indent, body.t_max_predict_ms / 1000)
    return await respond(
        call.request, Answers(deltas), _InfillWriter(model, params, call.record.started), stream=body.stream
    )


class _InfillWriter(Writer):
    """Writes an answer in llama-server's form, with its timings."""

    def __init__(self, model: GGUFModel, params: SamplingParams, started: float) -> None:
        self._model = model
        self._settings = settings_object(params, model)
        self._scored = params.logprobs is not None
        self._scores = Fragments()
        self._started = started

    def piece(self, piece: Piece) -> Iterator[bytes]:
        yield event(self._shown(piece.answers, piece.delta.text, piece.delta.tokens))

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield event(error.body, "error")

    def whole(self, answers: Answers) -> Response:
        answer = answers.all[0]
        scores = {"completion_probabilities": self._scores.json} if self._scored else {}
        return json_response({**self._shown(answers, answer.text, ()), **scores})

    def collect(self, piece: Piece) -> None:
        if self._scored:
            self._scores.add(probabilities(piece.delta.tokens, sampled=False))

    def _shown(self, answers: Answers, text: str, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        answer = answers.all[0]
        scores = {"completion_probabilities": probabilities(tokens, sampled=False)} if self._scored else {}
        if answer.last.finish_reason is None:
            return {"index": 0, "content": text, "stop": False, **scores}
        final = final_object(answer, text, self._model, timings(answers, self._started))
        return {**final, "generation_settings": self._settings, **scores}
