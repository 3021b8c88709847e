"""What routes get from the app."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request

from ggserve.api.access import RequestRecord
from ggserve.api.admission import is_admitted
from ggserve.api.bodies import LEASED
from ggserve.api.errors import APIError, model_loading
from ggserve.api.openai.images import have_images
from ggserve.api.state import state_of
from ggserve.api.streaming import while_connected
from ggserve.generation import Feature
from ggserve.model.gguf_model import GGUFModel


async def _model(request: Request) -> GGUFModel:
    models = state_of(request.scope).models
    if models.on_demand and request.method == "POST":
        body = await request.json()
        named = body.get("model") if isinstance(body, dict) else None
        model = await while_connected(request, models.lease(named if isinstance(named, str) else None))
        request.scope[LEASED] = True
        return model
    if models.loaded is None:
        raise model_loading()
    return models.loaded


async def _generator(request: Request) -> GGUFModel:
    assert is_admitted(request.scope), f"{request.url.path} generates: give its router route_class=GeneratingRoute"
    return await _model(request)


async def _record(request: Request) -> RequestRecord:
    record = request.state.record
    assert isinstance(record, RequestRecord)
    return record


def require(model: GGUFModel, feature: Feature, field: str) -> None:
    """Raises a 400 that names `field` unless the model's engine has the feature."""
    if feature in model.features:
        return
    if feature == "generation":
        use = "ranks documents" if "rerank" in model.features else "makes embeddings"
        path = "/v1/rerank" if "rerank" in model.features else "/v1/embeddings"
        message = f"{model.name} {use} and does not generate text: use {path}"
    elif feature == "rerank":
        message = f"{model.name} does not rank documents: that needs a GGUF of a reranker"
    elif feature == "images":
        message = f"{model.name} sees no images: a model that does needs its projector, MMPROJ_PATH"
    else:
        message = f"the {model.engine_name} engine makes no embeddings of {model.name}"
    raise APIError(400, message, param=field, code="unsupported_parameter")


def require_sight(model: GGUFModel, messages: Sequence[dict[str, Any]], field: str, *, counted: bool = False) -> None:
    """Raises a 400 that names `field` where a chat has images and the model sees none, or where its tokens shall be
    `counted`."""
    if not have_images(messages):
        return
    require(model, "images", field)
    if counted:
        raise APIError(400, "the tokens of images cannot be counted before the answer", param=field)


def require_infill(model: GGUFModel, field: str) -> None:
    """Raises a 400 that names `field` unless the model can fill in the middle of a text."""
    if objection := model.infill_objection:
        message = f"{model.name} cannot fill in the middle: {objection}"
        raise APIError(400, message, param=field, code="unsupported_parameter")


Model = Annotated[GGUFModel, Depends(_model)]  # to tell about, and for its tokens
Generator = Annotated[GGUFModel, Depends(_generator)]  # to compute with
Record = Annotated[RequestRecord, Depends(_record)]
