"""A request leases its model from the moment when its body is valid until its response has been sent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from fastapi import FastAPI

from ggserve.app import create_app
from ggserve.errors import ContextOverflow, InvalidToken, TemplateError
from ggserve.generation import Delta
from tests.api.state import app_state


class Model:
    """Answers each prompt with three texts, the last one when `goes_on` is set."""

    name = "tiny"
    features = frozenset(("generation",))
    parallel = 2
    context_length = 100
    occupancy = SimpleNamespace(full=False, capacity=9, queued=0)

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()

    async def chat(self, *_: Any, **__: Any) -> AsyncGenerator[Delta, None]:
        yield Delta("a", 1, 0, 1)
        yield Delta("b", 1, 0, 2)
        await self.goes_on.wait()
        yield Delta("c", 1, 0, 3, "stop")

    async def count_chat(self, *_: Any, **__: Any) -> int:
        return 1

    complete = infill = chat


@dataclass
class Registry:
    """Counts its leases."""

    model: Model
    started: bool = True
    only: Model | None = None
    leases: int = 0
    names: list[str | None] = field(default_factory=list)

    @asynccontextmanager
    async def lease(self, name: str | None, keep_alive: float | None = None) -> AsyncGenerator[Model, None]:
        self.names.append(name)
        self.leases += 1
        try:
            yield self.model
        finally:
            self.leases -= 1


@dataclass
class Client:
    """A client on the wire, which may leave."""

    app: FastAPI
    left: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def post(self, path: str, body: dict[str, Any]) -> None:
        unread = [{"type": "http.request", "body": orjson.dumps(body)}]

        async def receive() -> dict[str, Any]:
            if not unread:
                await self.left.wait()
                return {"type": "http.disconnect"}
            return unread.pop()

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        await self.app(scope, receive, send)


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
}


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("ends", ["answer", "client"])
def test_a_stream_keeps_its_lease_until_it_ends_or_its_client_leaves(path: str, ends: str) -> None:
    async def main() -> None:
        registry = Registry(Model())
        registry.model.infill_objection = None  # type: ignore[attr-defined]
        app = create_app()
        app.state.ggserve = app_state(models=registry)
        client = Client(app)
        asking = asyncio.ensure_future(client.post(path, {**BODIES[path], "stream": True, "model": "tiny"}))
        await until(lambda: len(client.sent) > 2)
        assert (registry.leases, registry.names) == (1, ["tiny"])
        (registry.model.goes_on if ends == "answer" else client.left).set()
        await asking
        assert registry.leases == 0
        complete = not client.sent[-1].get("more_body")
        assert complete == (ends == "answer")

    asyncio.run(main())


@pytest.mark.parametrize("path", [*BODIES, "/tokenize", "/api/show", "/v1/embeddings", "/v1/rerank"])
def test_an_invalid_request_loads_nothing(path: str) -> None:
    async def main() -> None:
        registry = Registry(Model())
        app = create_app()
        app.state.ggserve = app_state(models=registry)
        client = Client(app)
        await client.post(path, {"model": ["no", "name"]})
        assert client.sent[0]["status"] == 400
        assert registry.names == []

    asyncio.run(main())


FIELDS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/messages": "messages",
    "/api/chat": "messages",
    "/api/generate": "prompt",
    "/infill": "input_prefix",
}


@pytest.mark.parametrize(("path", "field"), FIELDS.items())
@pytest.mark.parametrize("error", [ContextOverflow(9, 8), TemplateError("no such role"), InvalidToken(9, 8)])
def test_an_error_of_the_prompt_names_the_field_of_its_route(path: str, field: str, error: Exception) -> None:
    class Failing(Model):
        infill_objection = None

        async def chat(self, *_: Any, **__: Any) -> AsyncGenerator[Delta, None]:
            raise error
            yield

        complete = infill = chat

    async def main() -> dict[str, Any]:
        app = create_app()
        app.state.ggserve = app_state(models=Registry(Failing()))
        client = Client(app)
        await client.post(path, BODIES.get(path, {"prompt": "Hi"}))
        return orjson.loads(client.sent[1]["body"])  # type: ignore[no-any-return]

    assert asyncio.run(main())["error"]["param"] == field
