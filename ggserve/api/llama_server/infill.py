"""`POST /infill`, as llama-server has it and editors' plugins ask it: what belongs between two pieces of a text."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.dependencies import Generator, Record, require, require_infill
from ggserve.api.llama_server.schemas import InfillRequest
from ggserve.api.streaming import EventStream, await_first, event, guarded, json_response, while_connected
from ggserve.generation import Delta
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["infill"])


@router.post("/infill", responses=EventStream.RESPONSES)
async def infill(body: InfillRequest, request: Request, model: Generator, record: Record) -> Response:
    """The middle of a text, whole or as events, of which the last one says `stop`."""
    require(model, "generation", "model")
    require_infill(model, "input_suffix")
    middle = _Middle(model)
    prefix = body.input_prefix + body.prompt
    generated = record.watch(model.infill(prefix, body.input_suffix, body.sampling_params(), files=body.files))
    deltas = limited(generated, body.n_indent, body.t_max_predict_ms / 1000)
    if body.stream:
        running = await while_connected(request, await_first(deltas))
        return EventStream(guarded(_events(running, middle), done=b""))
    return json_response(await while_connected(request, _whole(deltas, middle)))


async def limited(deltas: AsyncGenerator[Delta, None], indent: int, seconds: float) -> AsyncGenerator[Delta, None]:
    """The deltas up to a later line that is indented by less than `indent` blanks, or, once there is a line break, to
    `seconds` after the first of them. 0: no limit. What is in a line before its text stays, as in llama-server."""
    outdented = re.compile(rf"\n[ \t]{{0,{max(indent - 1, 0)}}}(?=[^ \t])")
    text, deadline = "", 0.0
    async with aclosing(deltas):
        async for delta in deltas:
            deadline = deadline or time.perf_counter() + seconds
            known, text = len(text), text + delta.text
            if indent and (cut := outdented.search(text, max(0, known - indent))):
                yield replace(delta, text=text[known : cut.end()], finish_reason="length", stop_sequence=None)
                return
            if seconds > 0 and delta.finish_reason is None and "\n" in text and time.perf_counter() > deadline:
                yield replace(delta, finish_reason="length")
                return
            yield delta


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
