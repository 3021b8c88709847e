"""Errors as OpenAI's error object, `{"error": {"message", "type", "param", "code"}}`, or in another dialect's
format."""

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
    """The body of an error response."""

    error: ErrorObject


_DESCRIPTIONS: dict[int | str, str] = {
    400: "The request is invalid; `param` names the field.",
    401: "The key is missing or wrong.",
    429: "Too many requests are waiting: try again after `Retry-After` seconds.",
    500: "The server failed; its log has details under the response's `x-request-id`.",
    "default": "Any other error.",
}
Responses = dict[int | str, dict[str, Any]]  # for `responses=`: the errors in the OpenAPI description


def error_responses(body: type[BaseModel]) -> Responses:
    """Return the error responses of a dialect with this error body."""
    return {status: {"model": body, "description": description} for status, description in _DESCRIPTIONS.items()}


ERROR_RESPONSES = error_responses(ErrorAnswer)


class APIError(Exception):
    """An error with its HTTP status, in OpenAI's terms."""

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
        """Create the error. `facts` are additional fields of OpenAI's error object."""
        super().__init__(message)
        self.facts = facts or {}
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def naming_message(self) -> str:
        """The message with the field's name, for formats that have no other place for it."""
        return str(self) if self.param is None or self.param in str(self) else f"{self.param}: {self}"

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        named = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**named, **self.facts}}


def openai_envelope(error: APIError) -> dict[str, Any]:
    """Return OpenAI's error body, which is also used for paths outside all dialects."""
    return error.body


def error_response(error: Exception, scope: Scope) -> Response:
    """Return the response to a failed request in the format of its path's dialect."""
    answer = api_error(error)
    envelope = state_of(scope).envelopes.of(scope)
    headers = dict(answer.headers or {})
    return Response(orjson.dumps(envelope(answer)), answer.status, headers, media_type="application/json")


def api_error(error: Exception, *, prompt: str | None = None) -> APIError:
    """Return the API error for an error from a lower layer. `prompt`: the request field with the prompt."""
    message = str(error)
    match error:
        case APIError():
            return error
        case ContextOverflow():
            return APIError(
                400,
                message,
                type="exceed_context_size_error",  # type and facts are llama-server's, the code is OpenAI's
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
            # An OSError's text would reveal a path.
            reason = error.strerror or "failed" if isinstance(error, OSError) else error
            return APIError(500, f"{type(error).__name__}: {reason}", type="server_error", code="internal_error")


def model_loading() -> APIError:
    """Return the error for requests that arrive before the model is loaded."""
    message = "The model is loading. Try again in a moment; /health shows the progress."
    return APIError(503, message, type="server_error", code="model_loading", headers={"Retry-After": "1"})


def _validation_error(error: RequestValidationError) -> APIError:
    first: dict[str, Any] = error.errors()[0]
    location = first["loc"][1:] if first["loc"][:1] == ("body",) else first["loc"]
    if first["type"] == "json_invalid":
        return APIError(400, f"The request body is not JSON: {first['ctx']['error']}.", code="invalid_json")
    if "param" in first.get("ctx", {}):  # from a validator of the whole body, about one field
        return APIError(400, first["msg"], param=first["ctx"]["param"], code=first["type"])
    if not location:
        empty = first["type"] == "missing" or error.body is None
        message = "The request body is empty." if empty else "The request body is not a JSON object."
        return APIError(400, message, code="invalid_json")
    param = _field_path(location, error.body, is_missing=first["type"] == "missing")
    message = first["msg"].removeprefix("Value error, ")
    return APIError(400, f"{param}: {message}" if param else message, param=param, code=first["type"])


def _field_path(location: Sequence[int | str], body: Any, *, is_missing: bool) -> str | None:
    """Return a field's path in the body, such as `messages.0.content`, without the type names that pydantic adds."""
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
    """Handles unexpected errors, inside the middlewares that add headers."""

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
    """Return the message of a 404: the path, and the path that was probably meant."""
    path, relative = request.scope["path"], route_path(request.scope)
    root = path.removesuffix(relative)
    message = f"Unknown path: {request.method} {path}"
    for meant in (path.rstrip("/"), f"{root}/v1{relative}".rstrip("/")):
        scope = {**request.scope, "path": meant}
        if meant != path and any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes):
            return f"{message}. Did you mean {meant}?"
    return message


def _allowed(request: Request) -> str:
    """Return the methods that the path accepts, over all routes."""
    scopes = ({**request.scope, "method": method} for method in ("GET", "HEAD", "POST", "DELETE"))
    taken = (scope["method"] for scope in scopes if any(r.matches(scope)[0] is Match.FULL for r in request.app.routes))
    return ", ".join(taken)


def install_error_handlers(app: FastAPI) -> None:
    """Turn every exception into an error object. Call it before adding middleware that changes responses."""

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_validation_error(error), request.scope)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, code = {
            404: (_unknown_path(request), "unknown_url"),
            405: (f"{request.url.path} does not support {request.method}.", "method_not_allowed"),
            413: (error.detail, "request_too_large"),
            415: (error.detail, "unsupported_encoding"),
            503: (error.detail, "too_many_bodies"),
        }.get(error.status_code, (error.detail, None))
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        answer = APIError(error.status_code, message, type=kind, code=code, headers=headers)
        return error_response(answer, request.scope)

    async def on_left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's status for a client that disconnected; nobody reads it

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(error, request.scope)

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_left)
    for kind in (APIError, EngineError, TemplateError, UnknownModel, ModelFileError):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(_UnforeseenErrors)
