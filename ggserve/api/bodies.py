"""Request bodies: fast JSON parsing, with size checks before any slow work."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

_LARGE = 1 << 20  # bytes
_MOST_VALUES = 200_000  # in all lists and objects of a body; validating more would block other requests
_DEEPEST = 100  # maximum nesting


class JSONRequest(Request):
    """A request with a JSON body. Raises HTTPException if it has more or deeper values than any real client sends."""

    async def json(self) -> Any:
        """Return the parsed body. Raises json.JSONDecodeError (orjson's error is a subclass)."""
        if not hasattr(self, "_json"):
            encoding = self.headers.get("content-encoding", "identity")
            if encoding.lower() != "identity":
                raise HTTPException(415, f"Content-Encoding {encoding} is not supported: send the body uncompressed.")
            body = await self.body()
            self._json = _parsed(body) if len(body) <= _LARGE else await asyncio.to_thread(_parsed, body)
        return self._json


class JSONRoute(APIRoute):
    """The route class of endpoints with a body. The body is JSON whatever its content type, because `curl -d` declares
    it as a form.

    Web pages are the exception: browsers send other content types across origins without asking the server first.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST" and "origin" not in Headers(scope=scope):
            headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope["headers"] = [*headers, (b"content-type", b"application/json")]
        await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JSONRequest(request.scope, request.receive))

        return handle


def _parsed(body: bytes) -> Any:
    if len(body) > _LARGE:
        _check_marks(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        _check_encoding(body)
        raise
    _check_size(value)
    return value


def _check_marks(body: bytes) -> None:
    """Reject a body that would take a second and a gigabyte to parse, judging by its punctuation outside strings. Takes
    a few passes over the bytes of milliseconds each."""
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * _MOST_VALUES:  # each string is a value or a key
        raise _too_many()
    outside = b"".join(bare.split(b'"')[::2])
    if max(outside.count(b","), outside.count(b"["), outside.count(b"{")) > _MOST_VALUES:
        raise _too_many()


def _too_many() -> HTTPException:
    return HTTPException(400, f"The request has more than {_MOST_VALUES} values.")


def _check_encoding(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(415, f"The request body is not valid UTF-8 at byte {error.start}.") from error


def _check_size(body: Any) -> None:
    containers, values = _containers([body]), 0
    for _ in range(_DEEPEST):
        if not containers:
            return
        values += sum(map(len, containers))
        if values > _MOST_VALUES:
            raise _too_many()
        containers = [inner for outer in containers for inner in _containers(outer)]
    raise HTTPException(400, f"The request is nested more than {_DEEPEST} levels deep.")


def _containers(outer: dict[str, Any] | list[Any]) -> list[dict[str, Any] | list[Any]]:
    """Return the lists and objects directly inside a list or object."""
    inner = outer.values() if isinstance(outer, dict) else outer
    kinds = set(map(type, inner))
    return [value for value in inner if isinstance(value, (dict, list))] if dict in kinds or list in kinds else []
