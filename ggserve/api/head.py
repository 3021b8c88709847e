"""HEAD requests, answered like GET. The HTTP server leaves the body out."""

from starlette.types import Receive, Scope, Send

from ggserve.api.middleware import HTTPMiddleware


class HeadMiddleware(HTTPMiddleware):
    """Routes HEAD requests to the handlers of GET."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}  # the server leaves the body out according to its own scope
        try:
            await self._app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")
