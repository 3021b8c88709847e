"""Turns requests away before they cost anything when there is no room for them."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.bodies import JSONRoute
from ggserve.api.errors import error_response, model_loading
from ggserve.api.state import state_of
from ggserve.api.streaming import once_loaded
from ggserve.errors import QueueFull
from ggserve.generation import Occupancy


class Admission:
    """Counts the requests that were read and have no answer yet: those on their way to the queue count too, or hundreds
    that come at the same moment would all pass."""

    def __init__(self) -> None:
        self.unanswered = 0

    def refusal(self, occupancy: Occupancy) -> QueueFull | None:
        """The error for a request that comes now; None where there is room for it."""
        if occupancy.full or self.unanswered >= occupancy.capacity:
            return QueueFull(max(occupancy.queued, self.unanswered))
        return None


class GeneratingRoute(JSONRoute):
    """The route class of endpoints that make the model compute. Answers 429 without reading the body when there is no
    room: in a rush, reading it is what would take the time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if state_of(request.scope).models.only is not None:
                return await handler(request)
            return await once_loaded(request, handler(request))

        return handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        admission = state.admission
        refusal: Exception | None = None if state.models.started else model_loading()
        if (model := state.models.only) is not None:  # of several models, each engine turns away its own
            refusal = admission.refusal(model.occupancy)
        if refusal:
            await error_response(refusal, scope)(scope, receive, send)
            return
        counted = False

        def count(now: bool) -> None:
            nonlocal counted
            admission.unanswered += now - counted
            counted = now

        async def counting_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                count(True)
            return message

        async def counting_send(message: Message) -> None:
            count(False)
            await send(message)

        try:
            await super().handle(scope, counting_receive, counting_send)
        finally:
            count(False)


def all_routes(routers: Iterable[APIRouter]) -> Iterator[BaseRoute]:
    """The routes of routers, also of those within routers."""
    for route in (route for router in routers for route in router.routes):
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from all_routes([inner])
        else:
            yield route


def generating_paths(routers: Iterable[APIRouter]) -> frozenset[str]:
    """The paths whose routes make the model compute."""
    return frozenset(route.path for route in all_routes(routers) if isinstance(route, GeneratingRoute))
