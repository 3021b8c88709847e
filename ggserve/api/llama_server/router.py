"""`GET /models`, `POST /models/load` and `/models/unload`: llama-server's router endpoints."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from ggserve.api.admin import LOADS
from ggserve.api.bodies import JSONRoute
from ggserve.api.errors import model_loading
from ggserve.api.fields import ModelRequest
from ggserve.api.state import state_of
from ggserve.api.streaming import while_connected
from ggserve.model.registry import ModelRegistry
from ggserve.model.resident import Resident

router = APIRouter(route_class=JSONRoute, tags=["models"])


class RouterRequest(ModelRequest):
    """`POST /models/load` and `/models/unload`."""

    model: str


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All models, with their status and the memory that they take."""
    registry = state_of(request.scope).models
    if not registry.started:
        raise model_loading()
    arriving = {resident.listed.path: resident for resident in registry.arriving}
    return {
        "object": "list",
        "manages": registry.catalog.folder is not None,  # True if models can be pulled, copied and deleted
        "memory": {"used": registry.used, "limit": int(registry.memory)},
        "data": [
            {
                "id": listed.name,
                "object": "model",
                "created": listed.created,
                "owned_by": "local",
                "in_cache": True,
                "path": listed.path.name,
                "size": listed.size,
                "kind": listed.kind,
                "pinned": listed.settings.pinned,
                "memory": resident.need if resident else None,
                "status": _status(registry, listed.path, bool(resident), arriving.get(listed.path)),
            }
            for listed, resident in await registry.listed()
        ],
    }


@router.post("/models/load", dependencies=LOADS)
async def load(body: RouterRequest, request: Request) -> dict[str, bool]:
    """Load a model. The response is sent when it is loaded."""
    registry = state_of(request.scope).models

    async def loaded() -> None:
        async with registry.lease(body.model, body.stay):
            pass

    await while_connected(request, loaded())
    return {"success": True}


@router.post("/models/unload", dependencies=LOADS)
async def unload(body: RouterRequest, request: Request) -> dict[str, bool]:
    """Unload a model when its answers have ended."""
    await state_of(request.scope).models.unload(body.model)
    return {"success": True}


def _status(registry: ModelRegistry, path: Path, loaded: bool, arriving: Resident | None) -> dict[str, Any]:
    if arriving is not None:
        return {"value": "loading", "progress": round(arriving.progress, 3)}
    if loaded:
        return {"value": "loaded"}
    failure = registry.failures.get(path)
    return {"value": "unloaded", **({"failed": True, "error": failure} if failure else {})}
