"""Requests are turned away before their body is read; every endpoint that computes asks for admission."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from ggserve.api.admission import GeneratingRoute, all_routes, generating_paths
from ggserve.api.errors import install_error_handlers
from ggserve.app import DIALECTS
from tests.api.state import app_state

ROUTERS = [dialect.router for dialect in DIALECTS]


@dataclass
class Busy:
    capacity: int = 2
    idle: int = 0
    queued: int = 0
    full: bool = False


class Model:
    def __init__(self, occupancy: Busy) -> None:
        self.occupancy = occupancy


def app_with(occupancy: Busy) -> tuple[FastAPI, list[int]]:
    router, admitted = APIRouter(route_class=GeneratingRoute), []
    app = FastAPI()
    app.state.ggserve = app_state(model=Model(occupancy))

    @router.post("/ask")
    async def ask(body: dict[str, Any]) -> int:
        admitted.append(app.state.ggserve.admission.unanswered)
        await asyncio.sleep(0.01)
        return 1

    app.include_router(router)
    install_error_handlers(app)
    return app, admitted


def ask(app: FastAPI, times: int) -> list[int]:
    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers = await asyncio.gather(*(client.post("/ask", json={}) for _ in range(times)))
        return [answer.status_code for answer in answers]

    return asyncio.run(all_at_once())


def test_a_full_queue_is_a_429_and_the_handler_never_runs() -> None:
    app, admitted = app_with(Busy(full=True))
    assert ask(app, 1) == [429]
    assert admitted == []


def test_those_on_their_way_count_and_are_counted_out() -> None:
    app, _ = app_with(Busy(capacity=2))
    statuses = ask(app, 5)
    assert statuses.count(200) >= 2
    assert set(statuses) <= {200, 429}
    assert app.state.ggserve.admission.unanswered == 0


def test_every_post_asks_for_admission_but_those_that_need_no_slot() -> None:
    routes = [route for route in all_routes(ROUTERS) if isinstance(route, APIRoute) and "POST" in route.methods]
    free = {route.path for route in routes if not isinstance(route, GeneratingRoute)}
    managing = {"/api/show", "/api/pull", "/api/copy", "/models/load", "/models/unload", "/slots/{number}"}
    counts = {"/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"}
    assert free == {"/tokenize", "/detokenize", "/apply-template", *managing, *counts}


def test_paths_that_compute_are_found_in_routers_within_routers() -> None:
    inner, outer = APIRouter(route_class=GeneratingRoute), APIRouter()
    inner.post("/inner")(lambda: None)
    outer.get("/outer")(lambda: None)
    outer.include_router(inner)
    assert generating_paths([outer]) == {"/inner"}
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages"} <= generating_paths(
        each.router for each in DIALECTS
    )
