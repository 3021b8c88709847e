"""`GET /v1/models`: the models that requests can name, and details of the loaded ones."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request

from ggserve.api.errors import APIError
from ggserve.api.hardware import hardware_fields
from ggserve.api.state import state_of
from ggserve.model.catalog import model_bytes
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The configured model, and the models in MODELS_DIR."""
    return {"object": "list", "data": await _model_objects(request)}


@router.get("/v1/models/{name:path}")
async def model_by_name(name: str, request: Request) -> dict[str, Any]:
    """One model, by its name."""
    if not name:
        raise HTTPException(404)
    objects = await _model_objects(request)
    for found in objects:
        if found["id"] == name:
            return found
    names = ", ".join(repr(found["id"]) for found in objects)
    raise APIError(404, f"The model {name!r} does not exist: {names}.", param="model", code="model_not_found")


async def _model_objects(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "id": listed.name,
            "object": "model",
            "created": listed.created,
            "owned_by": "local",
            **(_loaded(resident.model) if resident and resident.model else {}),
        }
        for listed, resident in await state_of(request.scope).models.listed()
    ]


def _loaded(model: GGUFModel) -> dict[str, Any]:
    return {
        "engine": model.engine_name,
        "engine_reason": model.engine_reason,
        **hardware_fields(model),
        "context_length": model.context_length,
        "max_model_len": model.context_length,  # vLLM's field
        "meta": _meta(model),
        "modalities": ["text", "image"] if "images" in model.features else ["text"],
    }


def _meta(model: GGUFModel) -> dict[str, Any]:
    """Return llama-server's facts about a model; null for those that the file does not contain."""
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
