"""Protection against browsers: the host names that the server answers to, and the web pages that may use it.

Without it, a page of another site could send requests to a server on the visitor's own machine and, by pointing its own
name to that machine's address (DNS rebinding), read the answers.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from ggserve.api.errors import APIError, error_response
from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::\d+)?")
# Names that nobody else can register: single words, names reserved for private networks (RFC 6761, RFC 6762), and
# Kubernetes services.
_PRIVATE_NAME = re.compile(r"[\w-]+|(?:[\w-]+\.)+(?:local|localhost|internal|lan|home\.arpa|svc)")
_METHODS = ("GET", "HEAD", "POST", "DELETE")
_EXPOSED = ("x-request-id", "retry-after")


class Origins:
    """The trusted host names and origins."""

    def __init__(self, *, hosts: Iterable[str] = (), origins: Iterable[str] = (), keyed: bool = False) -> None:
        """Set the trusted names. `hosts`: names of the server besides its own, `*.name` for all subdomains, `*` for
        any. `origins`: sites whose pages may use the server, `*` for any. `keyed`: API keys are required, so a page
        gains nothing."""
        self.origins = tuple(origins)
        schemes = [re.escape(origin.removesuffix("*")) for origin in self.origins if origin.endswith("://*")]
        self.origin_pattern = f"(?:{'|'.join(schemes)})[^/]+" if schemes else None  # for `chrome-extension://*`
        self._hosts = frozenset(hosts)
        self._keyed = keyed
        own = socket.gethostname().lower()
        self._own = frozenset(("localhost", own, own.partition(".")[0], f"{own.partition('.')[0]}.local"))

    def refusal(self, scope: Scope) -> APIError | None:
        """Return the error for a request that a browser should not have sent, or None."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        forwarded = [name.strip() for name in headers.get("x-forwarded-host", "").split(",") if name.strip()]
        for name in [*([] if host is None else [host]), *forwarded]:
            if not self._answers_to(name, scope.get("server")):
                return APIError(
                    403,
                    f"The server does not answer to the host name {name!r}. If the name is right, add it to "
                    "ALLOWED_HOSTS.",
                    code="host_not_allowed",
                )
        if self._is_foreign(scope["method"], headers):
            return APIError(
                403,
                f"Pages of {origin or 'other sites'} may not use this server. To allow them, set CORS_ORIGINS.",
                code="origin_not_allowed",
            )
        if origin is not None and scope["method"] == "POST" and not _is_json(headers.get("content-type", "")):
            return APIError(
                415, "A web page must send the content type application/json.", code="unsupported_media_type"
            )
        return None

    def _answers_to(self, host: str, server: tuple[str, int | None] | None) -> bool:
        if server is None or server[1] is None:  # a Unix socket, which browsers cannot reach
            return True
        if (match := _HOST.fullmatch(host)) is None:
            return False
        name = (match["v6"] or match["name"]).lower().rstrip(".")
        if name in self._own or self._is_allowed(name) or (self._keyed and not self._hosts):
            return True
        try:
            ip_address(name)
            return True  # an IP address cannot be rebound
        except ValueError:
            return _PRIVATE_NAME.fullmatch(name) is not None

    def _is_allowed(self, name: str) -> bool:
        return any(
            name == allowed or allowed == "*" or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in self._hosts
        )

    def _is_foreign(self, method: str, headers: Headers) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin is None:  # not a browser, or a browser that follows a link, which is harmless
            follows_link = method in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
            return site == "cross-site" and not follows_link
        # A page cannot set `X-Forwarded-Host` in a cross-origin request without a preflight.
        own = (headers.get("host", ""), headers.get("x-forwarded-host", "").partition(",")[0].strip())
        if site == "same-origin" or origin.partition("://")[2].lower() in [name.lower() for name in own if name]:
            return False
        if self.origin_pattern and re.fullmatch(self.origin_pattern, origin.lower()):
            return False
        return "*" not in self.origins and origin.lower() not in self.origins


class OriginsMiddleware(HTTPMiddleware):
    """Returns a 403 for requests that Origins refuses, and adds CORS headers for pages of CORS_ORIGINS."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        rules = state_of(scope).origins
        refusal = rules.refusal(scope)
        app = self._app if refusal is None else error_response(refusal, scope)
        if rules.origins:
            app = CORSMiddleware(
                app,
                allow_origins=rules.origins,
                allow_origin_regex=rules.origin_pattern,
                allow_methods=_METHODS,
                allow_headers=("*",),
                expose_headers=_EXPOSED,
                allow_private_network=True,
            )
        await app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on `host` is reachable from this machine only."""
    try:
        address = ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return host == "localhost"


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
