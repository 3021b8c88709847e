"""Admission control: rejects requests early if there is no room for them."""

from collections.abc import Iterable, Iterator

from fastapi import APIRouter
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.bodies import JSONRoute
from ggserve.api.errors import error_response, model_loading
from ggserve.api.loading import SignsOfLife
from ggserve.api.state import AppState, state_of
from ggserve.errors import QueueFull
from ggserve.generation import Queue
from ggserve.model.gguf_model import GGUFModel


class Admission:
    """Counts the requests that have been read but not answered. Requests on their way to the queue count too; otherwise
    hundreds that arrive together would all pass."""

    def __init__(self) -> None:
        self.unanswered = 0

    def refusal(self, queue: Queue) -> QueueFull | None:
        """The error for a request that comes now; None where there is room for it."""
        if queue.full or self.unanswered >= queue.capacity:
            return QueueFull(max(queue.queued, self.unanswered))
        return None


class GeneratingRoute(JSONRoute):
    """The route class of endpoints that run the model. Returns a 429 without reading the body if there is no room,
    because reading bodies takes most of the time in a rush."""

    def _admission(self, state: AppState) -> Admission:
        return state.admission

    def _queue(self, model: GGUFModel) -> Queue:
        return model.occupancy

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        admission = self._admission(state)
        refusal: Exception | None = None if state.models.started else model_loading()
        if (model := state.models.only) is not None:  # of several models, each engine turns away its own
            refusal = admission.refusal(self._queue(model))
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
            if state.models.only is not None:
                await super().handle(scope, counting_receive, counting_send)
                return
            async with SignsOfLife(scope, counting_send) as signs:
                await super().handle(scope, counting_receive, signs.send)
        finally:
            count(False)


class EmbeddingRoute(GeneratingRoute):
    """The route class of endpoints for embeddings, which have a queue of their own."""

    def _admission(self, state: AppState) -> Admission:
        return state.embedding_admission

    def _queue(self, model: GGUFModel) -> Queue:
        return model.embedding_queue


def all_routes(routers: Iterable[APIRouter]) -> Iterator[BaseRoute]:
    """Yield the routes of routers, including nested ones."""
    for route in (route for router in routers for route in router.routes):
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from all_routes([inner])
        else:
            yield route


def generating_paths(routers: Iterable[APIRouter]) -> frozenset[str]:
    """Return the paths whose routes run the model."""
    return frozenset(route.path for route in all_routes(routers) if isinstance(route, GeneratingRoute))
