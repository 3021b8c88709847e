"""What routes get from the app."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request

from ggserve.api.access import RequestRecord
from ggserve.api.admission import is_admitted
from ggserve.api.bodies import LEASED
from ggserve.api.durations import seconds
from ggserve.api.errors import APIError, model_loading
from ggserve.api.openai.images import have_images
from ggserve.api.state import state_of
from ggserve.api.streaming import while_connected
from ggserve.generation import Feature
from ggserve.model.gguf_model import GGUFModel


async def _model(request: Request) -> GGUFModel:
    models = state_of(request.scope).models
    if not models.started:
        raise model_loading()
    if request.method != "POST":
        if "model" not in request.query_params and models.current is not None:
            return models.current
        async with models.lease(request.query_params.get("model")) as model:
            return model  # to be told about, which needs no lease
    body = await request.json()
    named, keep_alive = wanted_model(body if isinstance(body, dict) else {})
    if (loaded := models.acquire_loaded(named, keep_alive)) is not None:
        request.scope[LEASED] = loaded
        return loaded

    async def lease() -> GGUFModel:
        request.scope[LEASED] = model = await models.acquire(named, keep_alive)
        return model

    return await while_connected(request, lease())


def wanted_model(body: dict[str, Any]) -> tuple[str | None, float | None]:
    """The model that a request names, and the seconds that it shall stay loaded: Ollama's `keep_alive`, LM Studio's
    `ttl`. Raises APIError."""
    named = body.get("model")
    field = "keep_alive" if body.get("keep_alive") is not None else "ttl"
    value = body.get(field)
    try:
        keep_alive = None if value is None else seconds(value)
    except ValueError:
        message = f"{field} is a number of seconds, or a duration such as '5m'; -1 means forever, 0 unloads at once"
        raise APIError(400, message, param=field, code="invalid_keep_alive") from None
    return (named if isinstance(named, str) and named else None), keep_alive


async def leased_generator(request: Request) -> GGUFModel:
    """The model to compute with, leased until the response is sent."""
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
Generator = Annotated[GGUFModel, Depends(leased_generator)]  # to compute with
Record = Annotated[RequestRecord, Depends(_record)]
