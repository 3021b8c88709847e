"""`POST /infill`, as llama-server has it and editors' plugins ask it: what belongs between two pieces of a text."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from api.admission import GeneratingRoute
from api.dependencies import Generator, Record, require, require_infill
from api.llama_server.schemas import InfillRequest
from api.streaming import EventStream, event, guarded, json_response, started, while_connected
from engine.contract import Delta
from model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["infill"])


@router.post("/infill", responses=EventStream.RESPONSES)
async def infill(body: InfillRequest, request: Request, model: Generator, record: Record) -> Response:
    """The middle of a text, whole or as events, of which the last one says `stop`."""
    require(model, "generation", "model")
    require_infill(model, "input_suffix")
    middle = _Middle(model)
    prefix = body.input_prefix + body.prompt
    deltas = record.watch(model.infill(prefix, body.input_suffix, body.sampling_params(), files=body.files))
    if body.stream:
        running = await while_connected(request, started(deltas))
        return EventStream(guarded(_events(running, middle), done=b""))
    return json_response(await while_connected(request, _whole(deltas, middle)))


class _Middle:
    """An answer as llama-server shows it, with what it took."""

    def __init__(self, model: GGUFModel) -> None:
        self._model = model
        self._started = time.perf_counter()
        self._first: float | None = None  # when the prompt was evaluated

    def shown(self, delta: Delta, text: str) -> dict[str, Any]:
        now = time.perf_counter()
        self._first = self._first or now
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
                **_timing("prompt", delta.prompt_tokens - delta.cached_tokens, self._first - self._started),
                **_timing("predicted", delta.completion_tokens, now - self._first),
            },
        }


def _timing(name: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }


async def _whole(deltas: AsyncGenerator[Delta, None], middle: _Middle) -> dict[str, Any]:
    text = ""
    shown: dict[str, Any] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            text += delta.text
            shown = middle.shown(delta, text)
    return shown


async def _events(deltas: AsyncGenerator[Delta, None], middle: _Middle) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        async for delta in deltas:
            yield event(middle.shown(delta, delta.text))
