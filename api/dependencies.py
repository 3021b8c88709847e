"""What routes get from the app."""

from typing import Annotated

from fastapi import Depends, Request

from api.access import RequestRecord
from model import GGUFModel


def _model(request: Request) -> GGUFModel:
    model = request.app.state.model
    assert isinstance(model, GGUFModel)
    return model


def _record(request: Request) -> RequestRecord:
    record = request.state.record
    assert isinstance(record, RequestRecord)
    return record


Model = Annotated[GGUFModel, Depends(_model)]
Record = Annotated[RequestRecord, Depends(_record)]
