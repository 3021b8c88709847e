"""Every error as OpenAI's error object, `{"error": {"message", "type", "param", "code"}}`, or as a dialect words it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.dialect import route_path
from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of
from ggserve.errors import (
    ContextOverflow,
    EngineClosed,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    InvalidToken,
    ModelFileError,
    QueueFull,
    TemplateError,
    UnknownModel,
)

log = logging.getLogger("ggserve.main")


class ErrorObject(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of an error's answer."""

    error: ErrorObject


_DESCRIPTIONS: dict[int | str, str] = {
    400: "The request makes no sense; `param` names the field.",
    401: "The key is missing or wrong.",
    429: "Too many requests wait already: try again after `Retry-After` seconds.",
    500: "The server failed; its log tells more under the answer's `x-request-id`.",
    "default": "Any other error.",
}
Responses = dict[int | str, dict[str, Any]]  # for `responses=`, so that OpenAPI tells what may come


def error_responses(body: type[BaseModel]) -> Responses:
    """The errors of a dialect that words them so."""
    return {status: {"model": body, "description": description} for status, description in _DESCRIPTIONS.items()}


ERROR_RESPONSES = error_responses(ErrorAnswer)


class APIError(Exception):
    """An error with its HTTP status, as OpenAI words it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """`facts` are more fields of OpenAI's object."""
        super().__init__(message)
        self.facts = facts or {}
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def naming_message(self) -> str:
        """The message, with its field: for envelopes that have no other place for it."""
        return str(self) if self.param is None or self.param in str(self) else f"{self.param}: {self}"

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        named = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**named, **self.facts}}


def openai_envelope(error: APIError) -> dict[str, Any]:
    """OpenAI's, which all paths have that no dialect claims."""
    return error.body


def error_response(error: Exception, scope: Scope) -> Response:
    """The answer to a request that failed, as its path's dialect words it."""
    answer = api_error(error)
    envelope = state_of(scope).envelopes.of(scope)
    headers = dict(answer.headers or {})
    return Response(orjson.dumps(envelope(answer)), answer.status, headers, media_type="application/json")


def api_error(error: Exception, *, prompt: str | None = None) -> APIError:
    """The API's word for an error from below. `prompt`: the field of the request that holds the prompt."""
    message = str(error)
    match error:
        case APIError():
            return error
        case ContextOverflow():
            return APIError(
                400,
                message,
                type="exceed_context_size_error",  # llama-server's, as the two facts are; the code is OpenAI's
                param=prompt,
                code="context_length_exceeded",
                facts={"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.context_length},
            )
        case InvalidToken():
            return APIError(400, message, param=error.field or prompt, code="invalid_token")
        case InvalidRequest():
            return APIError(400, message, param=error.field, code="invalid_request")
        case TemplateError():
            return APIError(400, message, param=prompt, code="chat_template_error")
        case UnknownModel():
            return APIError(404, message, param="model", code="model_not_found")
        case ModelFileError():
            return APIError(500, message, type="server_error", code="model_load_failed")
        case QueueFull():
            return APIError(429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})
        case EngineClosed():
            return APIError(503, message, type="server_error", code="shutting_down")
        case EngineUnavailable():
            return APIError(503, message, type="server_error", code="model_unavailable")
        case EngineError():
            return APIError(500, message, type="server_error", code="generation_failed")
        case _:
            # An OSError's own text would tell a path.
            reason = error.strerror or "failed" if isinstance(error, OSError) else error
            return APIError(500, f"{type(error).__name__}: {reason}", type="server_error", code="internal_error")


def model_loading() -> APIError:
    """The answer to whoever comes before the model."""
    message = "The model is loading. Try again in a moment; /health tells how far it is."
    return APIError(503, message, type="server_error", code="model_loading", headers={"Retry-After": "1"})


def _validation_error(error: RequestValidationError) -> APIError:
    first: dict[str, Any] = error.errors()[0]
    location = first["loc"][1:] if first["loc"][:1] == ("body",) else first["loc"]
    if first["type"] == "json_invalid":
        return APIError(400, f"The request's body is not JSON: {first['ctx']['error']}.", code="invalid_json")
    if "param" in first.get("ctx", {}):  # what a validator of the whole body says of one field
        return APIError(400, first["msg"], param=first["ctx"]["param"], code=first["type"])
    if not location:
        empty = first["type"] == "missing" or error.body is None
        message = "The request's body is empty." if empty else "The request's body is no JSON object."
        return APIError(400, message, code="invalid_json")
    param = _field_path(location, error.body, is_missing=first["type"] == "missing")
    message = first["msg"].removeprefix("Value error, ")
    return APIError(400, f"{param}: {message}" if param else message, param=param, code=first["type"])


def _field_path(location: Sequence[int | str], body: Any, *, is_missing: bool) -> str | None:
    """Where in the body a field is, as `messages.0.content`: pydantic names the types that it tried as well."""
    path: list[str] = []
    for number, part in enumerate(location, 1):
        if is_missing and number == len(location):
            path.append(str(part))
        elif (isinstance(body, dict) and part in body) or (
            isinstance(body, list) and isinstance(part, int) and part < len(body)
        ):
            body = body[part]  # type: ignore[index]
            path.append(str(part))
    return ".".join(path) or None


class _UnforeseenErrors(HTTPMiddleware):
    """Answers errors that no handler knows, inside the middlewares that add headers."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noticed_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noticed_send)
        except Exception as error:
            if started:
                raise
            log.exception("%s failed", scope["state"]["record"].id)
            await error_response(error, scope)(scope, receive, send)


def _unknown_path(request: Request) -> str:
    """What a 404 says: the path, and the one that was probably meant."""
    path, relative = request.scope["path"], route_path(request.scope)
    root = path.removesuffix(relative)
    message = f"Unknown path: {request.method} {path}"
    for meant in (path.rstrip("/"), f"{root}/v1{relative}".rstrip("/")):
        scope = {**request.scope, "path": meant}
        if meant != path and any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes):
            return f"{message}. Did you mean {meant}?"
    return message


def _allowed(request: Request) -> str:
    """The methods that the path takes, whichever routes they have."""
    scopes = ({**request.scope, "method": method} for method in ("GET", "HEAD", "POST", "DELETE"))
    taken = (scope["method"] for scope in scopes if any(r.matches(scope)[0] is Match.FULL for r in request.app.routes))
    return ", ".join(taken)


def install_error_handlers(app: FastAPI) -> None:
    """Turns every exception into an error object. Comes before all middleware that adds to answers."""

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_validation_error(error), request.scope)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, code = {
            404: (_unknown_path(request), "unknown_url"),
            405: (f"{request.url.path} does not take {request.method}.", "method_not_allowed"),
            413: (error.detail, "request_too_large"),
            415: (error.detail, "unsupported_encoding"),
            503: (error.detail, "too_many_bodies"),
        }.get(error.status_code, (error.detail, None))
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        answer = APIError(error.status_code, message, type=kind, code=code, headers=headers)
        return error_response(answer, request.scope)

    async def on_left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # as nginx says it; nobody reads it

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(error, request.scope)

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_left)
    for kind in (APIError, EngineError, TemplateError, UnknownModel, ModelFileError):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(_UnforeseenErrors)
