"""The state of a request in an endpoint: its validated body, the model that it leases, and its record."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Request

from ggserve.api.errors import api_error, model_loading
from ggserve.api.fields import ModelRequest
from ggserve.api.record import RequestRecord
from ggserve.api.state import state_of
from ggserve.api.streaming import Waiting, while_connected
from ggserve.errors import ContextOverflow, InvalidToken, TemplateError
from ggserve.model.gguf_model import GGUFModel

Body = TypeVar("Body", bound=ModelRequest)


@dataclass(frozen=True)
class Call(Generic[Body]):
    """A request with a valid body. Its model stays loaded until the response is sent or the client disconnects."""

    body: Body
    model: GGUFModel
    request: Request
    record: RequestRecord


def call_of(
    schema: type[Body], waiting: Callable[[Body], Waiting] = lambda body: Waiting()
) -> Callable[..., AsyncGenerator[Call[Body], None]]:
    """Return the dependency of an endpoint whose body has this schema. An invalid body never reaches the model. A
    stream is `waiting` while its model is loading."""

    async def dependency(request: Request, body: Body) -> AsyncGenerator[Call[Body], None]:
        models = state_of(request.scope).models
        if not models.started:
            raise model_loading()
        async with AsyncExitStack() as stack:
            lease = models.lease(body.model, body.stay)
            request.state.waiting = waiting(body) if body.streams else None
            model = await while_connected(request, stack.enter_async_context(lease))
            request.state.waiting = None
            request.state.record.model = model.name
            try:
                yield Call(body, model, request, request.state.record)
            except (ContextOverflow, InvalidToken, TemplateError) as error:
                raise api_error(error, prompt=body.prompt_field) from error

    dependency.__annotations__["body"] = schema
    return dependency


async def _loaded_model(request: Request, model: str | None = None) -> GGUFModel:
    models = state_of(request.scope).models
    if not models.started:
        raise model_loading()
    if model is None and models.current is not None:
        return models.current
    async with models.lease(model) as loaded:
        return loaded  # reading its properties needs no lease


LoadedModel = Annotated[GGUFModel, Depends(_loaded_model)]  # for endpoints that only describe it
