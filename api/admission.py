"""Turns requests away before they cost anything when there is no room for them."""

from collections.abc import Iterable

from fastapi import APIRouter
from starlette.types import Message, Receive, Scope, Send

from api.bodies import JSONRoute
from api.errors import error_response, model_loading
from engine.contract import Occupancy
from engine.errors import QueueFull

_ADMITTED = "ggserve.admitted"  # in the scope of a request that found room


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

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        admission: Admission = state.admission
        if state.model:
            refusal: Exception | None = admission.refusal(state.model.occupancy)
        else:  # the request may be what loads it
            refusal = None if state.models.on_demand else model_loading()
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

        scope[_ADMITTED] = True
        try:
            await super().handle(scope, counting_receive, counting_send)
        finally:
            count(False)


def is_admitted(scope: Scope) -> bool:
    """Whether the request came through a GeneratingRoute."""
    return bool(scope.get(_ADMITTED))


def generating_paths(routers: Iterable[APIRouter]) -> frozenset[str]:
    """The paths whose routes make the model compute, also those of routers within routers."""
    paths: set[str] = set()
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, GeneratingRoute):
            paths.add(route.path)
        elif (inner := getattr(route, "original_router", None)) is not None:
            paths |= generating_paths([inner])
    return frozenset(paths)
