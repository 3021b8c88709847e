"""`GET /v1/models`: the loaded model, and why which engine runs it."""

from typing import Any

from fastapi import APIRouter

from api.dependencies import Model
from api.errors import APIError
from model import GGUFModel

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(model: Model) -> dict[str, Any]:
    """The loaded model, as a list of one."""
    return {"object": "list", "data": [_model_object(model)]}


@router.get("/v1/models/{name:path}")
async def model_by_name(name: str, model: Model) -> dict[str, Any]:
    """The loaded model, by its name."""
    if name != model.name:
        raise APIError(
            404, f"The model {name!r} is not served here, {model.name!r} is.", param="model", code="model_not_found"
        )
    return _model_object(model)


def _model_object(model: GGUFModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.path.stat().st_mtime),
        "owned_by": "local",
        "engine": model.engine_name,
        "engine_reason": model.engine_reason,
        "context_length": model.context_length,
    }
