"""`GET /api/tags`, `/api/ps` and `/api/version`, `POST /api/show`: what there is, in Ollama's words."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from ggserve.api.bodies import JSONRoute
from ggserve.api.call import Call, call_of
from ggserve.api.errors import model_loading
from ggserve.api.ollama.errors import OLLAMA_ERRORS
from ggserve.api.ollama.schemas import ShowRequest
from ggserve.api.state import state_of
from ggserve.model.gguf_model import GGUFModel, model_bytes, model_name

router = APIRouter(route_class=JSONRoute, tags=["ollama"], responses=OLLAMA_ERRORS)
_SAMPLED = 1 << 20  # bytes of a file's beginning and end that tell it from others


@router.get("/api/version")
async def version(request: Request) -> dict[str, str]:
    """The server's version."""
    return {"version": request.app.version}


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The models that may be asked."""
    models = state_of(request.scope).models
    loaded = models.loaded
    if models.on_demand:
        paths = [listed.path for listed in await asyncio.to_thread(models.listed)]
    elif loaded is None:
        raise model_loading()
    else:
        paths = [loaded.path]
    return {"models": await asyncio.to_thread(lambda: [_entry(path, loaded) for path in paths])}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, Any]:
    """The model that is loaded."""
    model = state_of(request.scope).models.loaded
    if model is None:
        return {"models": []}
    entry = await asyncio.to_thread(_entry, model.path, model)
    return {"models": [{**entry, "size_vram": 0, "context_length": model.context_length}]}


@router.post("/api/show")
async def show(call: Annotated[Call[ShowRequest], Depends(call_of(ShowRequest))]) -> dict[str, Any]:
    """All about a model."""
    model = call.model
    facts = model.facts
    capabilities = {"generation": ["completion", "tools"], "embeddings": ["embedding"], "images": ["vision"]}
    return {
        "modelfile": f"FROM {model.name}",
        "parameters": "",
        "template": facts.chat_template or "",
        "details": _details(model),
        "model_info": {**facts.metadata, "general.parameter_count": facts.parameters},
        "capabilities": [
            *(word for feature, words in capabilities.items() if feature in model.features for word in words),
            *(["thinking"] if model.thinks and "generation" in model.features else []),
        ],
        "modified_at": _time(model.path.stat().st_mtime),
    }


def _entry(path: Path, loaded: GGUFModel | None) -> dict[str, Any]:
    stat = path.stat()
    details = _details(loaded) if loaded is not None and loaded.path == path else {"format": "gguf"}
    name = model_name(path)
    return {
        "name": name,
        "model": name,
        "modified_at": _time(stat.st_mtime),
        "size": model_bytes(path),
        "digest": _digest(path, stat.st_size),
        "details": details,
    }


def _details(model: GGUFModel) -> dict[str, Any]:
    facts = model.facts
    count = facts.parameters
    unit, letter = next((u, c) for u, c in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if count >= u or c == "K")
    return {
        "parent_model": "",
        "format": facts.format,
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": f"{count / unit:.1f}{letter}",
        "quantization_level": facts.quantization,
    }


def _digest(path: Path, size: int) -> str:
    """Tells a file from others without reading gigabytes: a hash of its size, its beginning and its end."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLED))
        file.seek(max(0, size - _SAMPLED))
        digest.update(file.read(_SAMPLED))
    return digest.hexdigest()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
