"""API keys. The files that the chat page needs before the user has entered a key stay public."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ggserve.api.dialect import route_path
from ggserve.api.errors import APIError, error_response
from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of

_OPEN_PATHS = frozenset(("/", "/favicon.ico", "/health", "/v1/health", "/livez", "/docs", "/openapi.json"))
_OPEN_FOLDER = "/web/"


class Keys:
    """The accepted API keys, as digests. Without any, every request is accepted."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, headers: Headers) -> bool:
        """Return whether a request has a valid key: `Authorization: Bearer KEY` like OpenAI's clients, or
        `x-api-key`."""
        if not self._digests:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", "").strip(), bearer.strip() if scheme.lower() == "bearer" else ""]
        digests = [sha256(key.encode("latin-1")).digest() for key in given]
        # Compare all pairs completely, so that the time reveals nothing about a key.
        return sum(hmac.compare_digest(one, known) for one in digests for known in self._digests) > 0


def read_keys(keys: str | None, file: Path | None) -> Keys:
    """Return the keys in a comma-separated text and in a file with one per line. Raises ValueError naming the setting
    if the file cannot be read or contains no key."""
    found: set[str] = set()
    for name, lines in (("API_KEY", keys.split(",") if keys else None), ("API_KEY_FILE", _lines(file))):
        if lines is None:
            continue
        some = {line.strip() for line in lines} - {""}
        if not some:
            raise ValueError(f"{name} contains no key")
        found |= some
    return Keys(found)


class KeysMiddleware(HTTPMiddleware):
    """Returns a 401 for requests without a valid key. `request.state.known` is True if the request had one."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        headers = Headers(scope=scope)
        accepted = state.keys.accept(headers) or (bool(state.admin_keys) and state.admin_keys.accept(headers))
        known = scope.setdefault("state", {})["known"] = accepted
        path = route_path(scope)
        if known or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            await self._app(scope, receive, send)
            return
        if "authorization" in headers or "x-api-key" in headers:
            message = "The API key is invalid."
        else:
            message = "An API key is required: send it as `Authorization: Bearer KEY`."
        error = APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        await error_response(error, scope)(scope, receive, send)


def _lines(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"API_KEY_FILE={file} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"API_KEY_FILE={file} cannot be read: {error.strerror}") from None
