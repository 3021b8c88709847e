"""A gateway: accepts requests over HTTP and has replicas answer them. It has no model."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ggserve.api.dialect import Envelopes
from ggserve.api.errors import APIError, error_response
from ggserve.api.streaming import DONE, EventStream, is_keep_alive
from ggserve.cluster.affinity import prompt_marks
from ggserve.cluster.gathered import GATHERED
from ggserve.cluster.response import Head
from ggserve.errors import QueueFull

_GATHER_SECONDS = 2.0  # timeout for replicas to report their state
_SCOPE = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client")
_LOST = APIError(503, "The replica was lost while it answered.", type="server_error", code="replica_lost")
_NONE = APIError(503, "No replica is available.", type="server_error", code="no_replica", headers={"Retry-After": "5"})

log = logging.getLogger("ray.serve")


class Gateway:
    """Accepts requests and has replicas answer them; a request whose replica dies before it has sent anything is
    retried once."""

    def __init__(
        self, replicas: DeploymentHandle, generating: frozenset[str], envelopes: Envelopes, most_bytes: int
    ) -> None:
        """`generating`: the paths of requests that take a slot. `most_bytes`: size limit of a body."""
        self._replicas = serve.get_deployment_handle("Replica")  # another handle would have a queue of its own
        self._answering, self._telling = (
            handle.options(stream=True, _by_reference=False).answer for handle in (replicas, self._replicas)
        )
        self._generating = generating
        self._most_bytes = most_bytes
        # the "app" for which errors are answered
        self.state = SimpleNamespace(ggserve=SimpleNamespace(envelopes=envelopes))

    async def __call__(self, request: Request) -> Response:
        scope = {name: value for name, value in request.scope.items() if name in _SCOPE}
        if scope["method"] == "GET" and scope["path"] in GATHERED:
            return await self._gather(scope)
        answer = self._answer(scope, await _body(request, self._most_bytes))
        try:
            head = await anext(answer)
        except BackPressureError as error:
            return error_response(QueueFull(error.args[0]), {**scope, "app": self})
        except RayActorError:
            return error_response(_LOST, {**scope, "app": self})
        except DeploymentUnavailableError:
            return error_response(_NONE, {**scope, "app": self})
        response = EventStream(self._survived(scope, head, answer))
        response.status_code = head.status
        response.raw_headers = [header for header in head.headers if header[0] != b"x-request-id"]  # Ray adds its own
        return response

    async def _answer(self, scope: Scope, body: bytes) -> AsyncGenerator[Any, None]:
        generates = scope["method"] == "POST" and scope["path"] in self._generating
        marks = prompt_marks(body) if generates else None
        begun = headed = False
        for attempt in (1, 2):
            response = (self._answering if generates else self._telling).remote(scope, body, marks)
            try:
                async for piece in response:
                    body = piece.body if isinstance(piece, Head) else piece
                    begun = begun or not is_keep_alive(body)
                    if headed and isinstance(piece, Head) and piece.status != 200:  # the client has seen another head
                        body = b"event: error\ndata: %s\n\n" % body
                    yield body if headed else piece
                    headed = True
                return
            except RayActorError as error:
                log.warning("attempt %d: a replica was lost: %s", attempt, error)
                if begun or attempt == 2:
                    raise
            finally:
                response.cancel()

    async def _survived(
        self, scope: Scope, head: Head, answer: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body. If the replica is lost, an event stream ends with an error event; other answers break off."""
        events = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.headers)
        async with aclosing(answer):
            yield head.body
            try:
                async for piece in answer:
                    yield piece
            except RayActorError:
                if not events:
                    raise
                error = error_response(_LOST, {**scope, "app": self})
                yield b"event: error\ndata: %s\n\n" % error.body
                if scope["path"].endswith("/completions"):
                    yield DONE

    async def _gather(self, scope: Scope) -> Response:
        """Return the state of all replicas as one answer."""
        try:  # results_async() would wait for one that hangs
            calls = await self._replicas.broadcast("tell", scope)._fetch_replica_results_async()
        except DeploymentUnavailableError:
            calls = []
        told = await asyncio.gather(
            *(asyncio.wait_for(call.get_async(), _GATHER_SECONDS) for call in calls), return_exceptions=True
        )
        answers = [answer for answer in told if not isinstance(answer, BaseException)]
        if not answers:
            return error_response(_NONE, {**scope, "app": self})
        if good := {name: body for name, status, body in answers if status == 200}:
            merge, media_type = GATHERED[scope["path"]]
            return Response(merge(good), media_type=media_type)
        _, status, body = answers[0]
        return Response(body, status, media_type="application/json")


async def _body(request: Request, most: int) -> bytes:
    """Return as much of the body as the app needs to see that it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            break
    return bytes(body)
