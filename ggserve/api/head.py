"""HEAD: answered as GET. The HTTP server leaves the body out."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadMiddleware:
    """Routes HEAD requests to what answers GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}  # the server looks at its own scope to leave the body out
        try:
            await self._app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")
