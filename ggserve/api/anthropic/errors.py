"""Errors in Anthropic's format: `{"type": "error", "error": {"type", "message"}}`."""

from typing import Any, Literal

from pydantic import BaseModel

from ggserve.api.errors import APIError, error_responses

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicErrorObject(BaseModel):
    """The error."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """The body of an error response."""

    type: Literal["error"]
    error: AnthropicErrorObject


ANTHROPIC_ERRORS = error_responses(AnthropicError)


def anthropic_envelope(error: APIError) -> dict[str, Any]:
    """Return the body of an error response, or of an `error` event."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    return {"type": "error", "error": {"type": _TYPES.get(error.status, default), "message": error.naming_message}}
