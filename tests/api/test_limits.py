"""A request's bytes, prompts and seconds are bounded."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from ggserve.api.body_limits import BodyBudget, BodyLimitsMiddleware
from ggserve.api.errors import APIError, install_error_handlers
from ggserve.api.limits import Limits, with_time_limits
from ggserve.generation import Delta
from tests.api.state import app_state, limits


async def deltas(*waits: float) -> AsyncGenerator[Delta, None]:
    for wait in waits:
        await asyncio.sleep(wait)
        yield Delta("a", 1, 0, 1)


async def gathered(limits: Limits, *waits: float) -> list[Delta]:
    came: list[Delta] = []
    try:
        async for delta in with_time_limits(deltas(*waits), limits, time.perf_counter(), lambda: bool(came)):
            came.append(delta)  # noqa: PERF401
    except APIError as error:
        assert (error.status, error.code) == (503, "timeout")
        return [*came, Delta(str(error), 0, 0, 0)]
    return came


@pytest.mark.parametrize(
    ("limits", "waits", "last"),
    [
        (limits(first_token_seconds=0.02, request_seconds=9), (5,), "The answer had no token after 0.02 seconds."),
        (
            limits(first_token_seconds=9, request_seconds=0.02),
            (0, 5),
            "The answer was not complete after 0.02 seconds.",
        ),
        (limits(first_token_seconds=0.5, request_seconds=60), (0, 0.6), "a"),
        (limits(first_token_seconds=0, request_seconds=0), (0, 0.01), "a"),
    ],
)
def test_an_answer_ends_when_its_time_is_over(limits: Limits, waits: tuple[float, ...], last: str) -> None:
    assert asyncio.run(gathered(limits, *waits))[-1].text == last


def test_too_many_prompts_are_a_400() -> None:
    limits(prompts=2).check_prompts(2)
    with pytest.raises(APIError, match="3 prompts") as raised:
        limits(prompts=2).check_prompts(3)
    assert (raised.value.status, raised.value.param) == (400, "prompt")


def app_with(limits: Limits) -> FastAPI:
    app = FastAPI()
    app.state.ggserve = app_state(limits=limits)

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    install_error_handlers(app)
    app.add_middleware(BodyLimitsMiddleware)
    return app


def test_a_body_may_have_as_many_bytes_as_the_limit_says() -> None:
    client = TestClient(app_with(limits(body_bytes=1 << 20)))
    assert client.post("/size", content=bytes(1 << 20)).json() == 1 << 20
    refused = client.post("/size", content=bytes((1 << 20) + 1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


def test_a_body_that_does_not_come_is_a_408() -> None:
    sent = []

    async def ask() -> None:
        async def receive() -> dict[str, object]:
            await asyncio.sleep(0.005)
            return {"type": "http.request", "body": b"a", "more_body": True}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/size", "headers": [], "query_string": b""}
        await app_with(limits(body_seconds=0.05))(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


def test_all_bodies_together_have_a_budget_and_their_memory_is_given_back_after_the_last() -> None:
    given_back = []
    budget = BodyBudget(10 << 20, lambda: given_back.append(True))
    app = app_with(limits(body_bytes=8 << 20))
    app.state.ggserve.bodies = budget
    going_on = asyncio.Event()
    statuses = []

    async def ask(mebibytes: int) -> None:
        pieces = [bytes(1 << 20)] * mebibytes

        async def receive() -> dict[str, object]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": True}
            await going_on.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "POST", "path": "/size", "headers": [], "query_string": b""}
        await app(scope, receive, send)

    async def main() -> None:
        first, second = asyncio.ensure_future(ask(6)), asyncio.ensure_future(ask(6))
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)  # there is no room for the second
        assert statuses == [503]
        assert budget.held == 6 << 20
        going_on.set()
        await asyncio.gather(first, second)
        assert budget.held == 0
        await ask(8)
        while len(given_back) < 2:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert statuses == [503, 200, 200]


def test_one_body_may_be_larger_than_the_budget() -> None:
    app = app_with(limits(body_bytes=8 << 20))
    app.state.ggserve.bodies = BodyBudget(1 << 20)
    assert TestClient(app).post("/size", content=bytes(8 << 20)).json() == 8 << 20
