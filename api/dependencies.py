"""What routes get from the app."""

from typing import Annotated

from fastapi import Depends, Request

from api.access import RequestRecord
from api.errors import APIError
from engine.base import Feature
from model import GGUFModel


async def _model(request: Request) -> GGUFModel:
    model = request.app.state.model
    assert isinstance(model, GGUFModel)
    return model


async def _record(request: Request) -> RequestRecord:
    record = request.state.record
    assert isinstance(record, RequestRecord)
    return record


def require(model: GGUFModel, feature: Feature, field: str) -> None:
    """Raises a 400 that names `field` unless the model's engine has the feature."""
    if feature in model.features:
        return
    if feature == "generation":
        message = f"{model.name} makes embeddings and does not generate text: use /v1/embeddings"
    elif feature == "embeddings":
        message = f"the {model.engine.name} engine makes no embeddings of {model.name}"
    else:
        message = f"{field} is not supported by the {model.engine.name} engine, which runs {model.name}"
    raise APIError(400, message, param=field, code="unsupported_parameter")


Model = Annotated[GGUFModel, Depends(_model)]
Record = Annotated[RequestRecord, Depends(_record)]
