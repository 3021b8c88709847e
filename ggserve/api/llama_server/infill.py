"""`POST /infill`, as llama-server has it and editors' plugins ask it: what belongs between two pieces of a text."""

import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answer import Answer
from ggserve.api.answers import Answers, Piece
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require, require_infill
from ggserve.api.llama_server.schemas import InfillRequest
from ggserve.api.streaming import EventStream, Writer, event, json_response, respond
from ggserve.generation import Delta
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["infill"])


@router.post("/infill", responses=EventStream.RESPONSES)
async def infill(call: Annotated[Call[InfillRequest], Depends(call_of(InfillRequest))]) -> Response:
    """The middle of a text, whole or as events, of which the last one says `stop`."""
    body, model = call.body, call.model
    require(model, "generation", "model")
    require_infill(model, "input_suffix")
    prefix = body.input_prefix + body.prompt
    generated = model.infill(prefix, body.input_suffix, body.sampling_params(), files=body.files)
    deltas = limited(call.record.watch(generated), body.n_indent, body.t_max_predict_ms / 1000)
    return await respond(call.request, Answers(deltas), _InfillWriter(model), stream=body.stream)


async def limited(deltas: AsyncGenerator[Delta, None], indent: int, seconds: float) -> AsyncGenerator[Delta, None]:
    """The deltas up to a later line that is indented by less than `indent` blanks, or, once there is a line break, to
    `seconds` after the first of them. 0: no limit. What is in a line before its text stays, as in llama-server."""
    outdented = re.compile(rf"\n[ \t]{{0,{max(indent - 1, 0)}}}(?=[^ \t])")
    tail, broken, deadline = "", False, 0.0  # the last characters, and whether there was a line break
    async with aclosing(deltas):
        async for delta in deltas:
            deadline = deadline or time.perf_counter() + seconds
            known, text = len(tail), tail + delta.text
            broken = broken or "\n" in delta.text
            if indent and (cut := outdented.search(text)):
                yield replace(delta, text=text[known : cut.end()], finish_reason="length", stop_sequence=None)
                return
            tail = text[-indent:] if indent else ""
            if seconds > 0 and delta.finish_reason is None and broken and time.perf_counter() > deadline:
                yield replace(delta, finish_reason="length")
                return
            yield delta


class _InfillWriter(Writer):
    """Writes an answer as llama-server shows it, with its timings."""

    def __init__(self, model: GGUFModel) -> None:
        self._model = model
        self._started = time.perf_counter()

    def piece(self, piece: Piece) -> Iterator[bytes]:
        yield event(self._shown(piece.answer, piece.delta.text))

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield event(error.body, "error")

    def whole(self, answers: Answers) -> Response:
        answer = answers.all[0]
        return json_response(self._shown(answer, answer.text))

    def _shown(self, answer: Answer, text: str) -> dict[str, Any]:
        delta = answer.last
        piece = {"index": 0, "content": text, "stop": delta.finish_reason is not None}
        if delta.finish_reason is None:
            return piece
        reason = "word" if delta.stop_sequence else "limit" if delta.finish_reason == "length" else "eos"
        return {
            **piece,
            "model": self._model.name,
            "tokens_predicted": delta.completion_tokens,
            "tokens_evaluated": delta.prompt_tokens,
            "tokens_cached": delta.cached_tokens,
            "truncated": False,
            "stop_type": reason,
            "stopping_word": delta.stop_sequence or "",
            "generation_settings": {"n_ctx": self._model.context_length},
            "timings": {
                **_timing("prompt", delta.prompt_tokens - delta.cached_tokens, answer.first_at - self._started),
                **_timing("predicted", delta.completion_tokens, time.perf_counter() - answer.first_at),
            },
        }


def _timing(name: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }
