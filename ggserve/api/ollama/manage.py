"""`POST /api/pull` and `/api/copy`, `DELETE /api/delete`: Ollama's API for managing the models in MODELS_DIR."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from ggserve.api.admin import WRITES
from ggserve.api.bodies import JSONRoute
from ggserve.api.errors import api_error
from ggserve.api.ollama.errors import OLLAMA_ERRORS, ollama_envelope
from ggserve.api.ollama.schemas import CopyRequest, NamedRequest, PullRequest
from ggserve.api.state import state_of
from ggserve.api.streaming import EventStream, json_response, while_connected
from ggserve.model.manage import Progress, copy, delete, pull

router = APIRouter(route_class=JSONRoute, tags=["ollama"], responses=OLLAMA_ERRORS, dependencies=WRITES)
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}, "description": "Progress."}}


@router.post("/api/pull", responses=_LINES)
async def pull_model(body: PullRequest, request: Request) -> Response:
    """Download a model from the hub into MODELS_DIR: `org/name` or `org/name:Q4_K_M`. An interrupted download continues
    where it stopped."""
    news = pull(state_of(request.scope).models, body.named)
    if body.stream is not False:
        return EventStream(_lines(news), media_type="application/x-ndjson")

    async def whole() -> None:
        async with aclosing(news):
            async for _ in news:
                pass

    await while_connected(request, whole())
    return json_response({"status": "success"})


@router.post("/api/copy")
async def copy_model(body: CopyRequest, request: Request) -> Response:
    """Give a model a second name, which takes no disk space."""
    await copy(state_of(request.scope).models, body.source, body.destination)
    return Response()


@router.delete("/api/delete")
async def delete_model(body: NamedRequest, request: Request) -> Response:
    """Delete a model's files."""
    await delete(state_of(request.scope).models, body.named)
    return Response()


async def _lines(news: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    yield orjson.dumps({"status": "pulling manifest"}) + b"\n"
    try:
        async with aclosing(news):
            async for progress in news:
                line = {
                    "status": f"pulling {progress.file}",
                    "digest": f"sha256:{progress.digest}",
                    "total": progress.total,
                    "completed": progress.completed,
                }
                yield orjson.dumps(line) + b"\n"
        last: dict[str, Any] = {"status": "success"}
    except Exception as error:
        last = ollama_envelope(api_error(error))
    yield orjson.dumps(last) + b"\n"
