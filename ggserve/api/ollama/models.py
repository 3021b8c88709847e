"""`GET /api/tags`, `/api/ps` and `/api/version`, `POST /api/show`: Ollama's lists and descriptions of models."""

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Request

from ggserve.api.bodies import JSONRoute
from ggserve.api.ollama.errors import OLLAMA_ERRORS
from ggserve.api.ollama.schemas import NamedRequest
from ggserve.api.state import state_of
from ggserve.model.catalog import Listed
from ggserve.model.manage import ModelFacts, describe
from ggserve.model.resident import Resident

router = APIRouter(route_class=JSONRoute, tags=["ollama"], responses=OLLAMA_ERRORS)
_FAR_AWAY = 253370764800.0  # seconds since 1970, in the year 9999: for a model that stays loaded
_SAMPLED = 1 << 20  # bytes at a file's beginning and end that identify it


@router.get("/api/version")
async def version(request: Request) -> dict[str, str]:
    """The server's version."""
    return {"version": request.app.version}


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The available models."""
    listed = await state_of(request.scope).models.listed()
    return {"models": await asyncio.to_thread(lambda: [_entry(each) for each, _ in listed])}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, Any]:
    """The loaded models, the most recently used first."""
    residents = state_of(request.scope).models.residents
    return {"models": await asyncio.to_thread(lambda: list(map(_running, residents)))}


@router.post("/api/show")
async def show(body: NamedRequest, request: Request) -> dict[str, Any]:
    """The details of a model, which need not be loaded."""
    models = state_of(request.scope).models
    listed = await asyncio.to_thread(models.catalog.find, body.named)
    described = await asyncio.to_thread(describe, listed)
    facts, capabilities = described.facts, described.capabilities
    resident = next((each for each in models.residents if each.listed.path == listed.path), None)
    if resident and (model := resident.model):  # which may have another projector or template than its file
        has = {"vision": "images" in model.features, "thinking": model.thinks}
        capabilities = [each for each in capabilities if has.get(each, True)]
        capabilities += [each for each, true in has.items() if true and each not in capabilities]
    return {
        "modelfile": f"FROM {listed.name}",
        "parameters": "\n".join(f"{name} {value}" for name, value in described.sampling.items()),
        "template": facts.chat_template or "",
        "details": _details(facts),
        "model_info": {**facts.metadata, "general.parameter_count": facts.parameters},
        "capabilities": capabilities,
        "modified_at": _time(listed.created),
    }


def _entry(listed: Listed) -> dict[str, Any]:
    return {
        "name": listed.name,
        "model": listed.name,
        "modified_at": _time(listed.created),
        "size": listed.size,
        "digest": _digest(listed),
        "details": _details(listed.facts) if listed.facts else {"format": "gguf"},
    }


def _running(resident: Resident) -> dict[str, Any]:
    context_length = resident.model.context_length if resident.model else 0
    return {
        **_entry(resident.listed),
        "size": resident.need,
        "size_vram": 0,
        "context_length": context_length,
        "expires_at": _time(resident.expires or _FAR_AWAY),
    }


def _details(facts: ModelFacts) -> dict[str, Any]:
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


@lru_cache(1024)
def _digest(listed: Listed) -> str:
    """Return a hash of a file's size, beginning and end, which identifies it without reading gigabytes."""
    digest = hashlib.sha256(str(listed.size).encode())
    try:
        with listed.path.open("rb") as file:
            digest.update(file.read(_SAMPLED))
            file.seek(-min(_SAMPLED, file.seek(0, os.SEEK_END)), os.SEEK_END)
            digest.update(file.read(_SAMPLED))
    except OSError:  # deleted since it was listed
        digest.update(listed.name.encode())
    return digest.hexdigest()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
