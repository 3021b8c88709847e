"""A replica: a process with a model and the app that answers with it."""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, NoReturn

from ray import serve
from starlette.types import Scope

from ggserve.cluster.response import get_scope, respond
from ggserve.settings import Settings

_POLL_SECONDS = 0.05  # between checks whether the model has loaded


class Replica:
    """Answers requests that gateways pass on. Ray creates it, and reads `check_health` and `record_routing_stats`."""

    async def __init__(self, settings: Settings, slots: int) -> None:  # type: ignore[misc]  # Ray awaits it
        """Load the model. Raises RuntimeError with one line if that is impossible."""
        from ggserve.app import create_app

        self._name = str(serve.get_replica_context().rank.rank)
        self._marks: deque[int] = deque(maxlen=slots)
        failures: list[object] = []

        def fail(error: object, code: int) -> NoReturn:
            failures.append(error)
            sys.exit(code)  # ends only the thread that loads

        if settings.log_dir:
            settings = settings.model_copy(update={"log_dir": settings.log_dir / f"replica-{self._name}"})
        self._app = app = create_app(settings, fail=fail)
        self._lifespan = app.router.lifespan_context(app)
        with suppress(SystemExit):
            await self._lifespan.__aenter__()
        while failures or not app.state.ggserve.models.started:
            if failures:
                raise RuntimeError(f"ggserve: {failures[0]}")
            await asyncio.sleep(_POLL_SECONDS)

    async def __del__(self) -> None:
        await self._lifespan.__aexit__(None, None, None)

    async def answer(self, scope: Scope, body: bytes, marks: Sequence[int] | None) -> AsyncGenerator[Any, None]:
        """Yield the response: its Head, then bytes. `marks` are those of the prompt; None: the request needs no
        slot."""
        self._marks.extend((marks or [])[-1:])
        async with aclosing(respond(self._app, scope, body)) as response:
            async for piece in response:
                yield piece

    async def tell(self, scope: Scope) -> tuple[str, int, bytes]:
        """Return the name of this replica, and the status and body of its response to a `GET`."""
        async with aclosing(respond(self._app, scope, b"")) as response:
            head = await anext(response)
            return self._name, head.status, b"".join([head.body, *[piece async for piece in response]])

    async def check_health(self) -> None:
        """Check the replica. Ray calls this regularly, and replaces the replica if it fails or does not return."""
        _, status, body = await self.tell(get_scope("/health"))
        if status != 200:
            raise RuntimeError(body.decode())

    def record_routing_stats(self) -> dict[str, Any]:
        """Return what Ray passes on to the routers of all gateways."""
        return {"marks": list(self._marks)}
