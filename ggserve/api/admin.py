"""Who may manage models: with keys configured, whoever has one (ADMIN_API_KEY where that is set); without any, programs
on this machine."""

from fastapi import Depends, Request
from starlette.datastructures import Headers

from ggserve.api.errors import APIError
from ggserve.api.origins import is_loopback
from ggserve.api.state import state_of

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")  # a proxy speaks for somebody else


async def _may_load(request: Request) -> None:
    state = state_of(request.scope)
    if state.admin_keys and not state.admin_keys.accept(Headers(scope=request.scope)):
        message = "This needs the admin key (ADMIN_API_KEY): send it as `Authorization: Bearer KEY`."
        raise APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


async def _may_write(request: Request) -> None:
    await _may_load(request)
    state = state_of(request.scope)
    local = request.client is None or is_loopback(request.client.host)
    if not state.admin_keys and not state.keys and (not local or any(name in request.headers for name in _FORWARDED)):
        message = "Without a key, only programs on the server's machine may do this: set ADMIN_API_KEY or API_KEY."
        raise APIError(403, message, type="permission_error", code="not_local")


LOADS = [Depends(_may_load)]  # of routes that load and unload models
WRITES = [Depends(_may_write)]  # of routes that change files
