"""Authorization for managing models: with API keys, any key (or ADMIN_API_KEY if it is set); without, local programs
only."""

from fastapi import Depends, Request
from starlette.datastructures import Headers

from ggserve.api.errors import APIError
from ggserve.api.origins import is_loopback
from ggserve.api.state import state_of

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")  # a proxy forwards a remote client


async def _may_load(request: Request) -> None:
    state = state_of(request.scope)
    if state.admin_keys and not state.admin_keys.accept(Headers(scope=request.scope)):
        message = "This requires the admin key (ADMIN_API_KEY): send it as `Authorization: Bearer KEY`."
        raise APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


async def _may_write(request: Request) -> None:
    await _may_load(request)
    state = state_of(request.scope)
    local = request.client is None or is_loopback(request.client.host)
    if not state.admin_keys and not state.keys and (not local or any(name in request.headers for name in _FORWARDED)):
        message = "Without an API key, only programs on the server's machine can do this: set ADMIN_API_KEY or API_KEY."
        raise APIError(403, message, type="permission_error", code="not_local")


LOADS = [Depends(_may_load)]  # for routes that load and unload models
WRITES = [Depends(_may_write)]  # for routes that change files
