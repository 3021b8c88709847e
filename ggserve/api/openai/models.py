"""`GET /v1/models`: the loaded model and why which engine runs it, and what else MODELS_DIR holds."""

import asyncio
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from ggserve.api.errors import APIError, model_loading
from ggserve.api.state import state_of
from ggserve.model.gguf_model import GGUFModel, model_bytes

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The loaded model, and those of MODELS_DIR."""
    return await model_list(request)


async def model_list(request: Request) -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": await _model_objects(request)}


@router.get("/v1/models/{name:path}")
async def model_by_name(name: str, request: Request) -> dict[str, Any]:
    """One of them, by its name."""
    if not name:
        raise HTTPException(404)
    objects = await _model_objects(request)
    for found in objects:
        if found["id"] == name:
            return found
    names = ", ".join(repr(found["id"]) for found in objects)
    raise APIError(404, f"The model {name!r} is not served here: {names}.", param="model", code="model_not_found")


async def _model_objects(request: Request) -> list[dict[str, Any]]:
    all_models = state_of(request.scope).models
    loaded = all_models.loaded
    if not all_models.on_demand:
        if loaded is None:
            raise model_loading()
        return [_model_object(loaded)]
    return [
        _model_object(loaded)
        if loaded is not None and listed.path == loaded.path
        else {"id": listed.name, "object": "model", "created": listed.created, "owned_by": "local"}
        for listed in await asyncio.to_thread(all_models.listed)
    ]


def _model_object(model: GGUFModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.path.stat().st_mtime),
        "owned_by": "local",
        "engine": model.engine_name,
        "engine_reason": model.engine_reason,
        "context_length": model.context_length,
        "max_model_len": model.context_length,  # vLLM's name
        "meta": _meta(model),
        "modalities": ["text", "image"] if "images" in model.features else ["text"],
    }


def _meta(model: GGUFModel) -> dict[str, Any]:
    """llama-server's facts of a model; null for what the file does not say."""
    facts = model.facts
    by_architecture = f"{facts.architecture}."
    return {
        "n_vocab": model.vocab_size,
        "n_ctx_train": facts.metadata.get(f"{by_architecture}context_length"),
        "n_embd": facts.metadata.get(f"{by_architecture}embedding_length"),
        "n_params": facts.parameters,
        "size": model_bytes(model.path),
        "ftype": facts.quantization,
    }
