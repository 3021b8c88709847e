"""Errors in Ollama's format: `{"error": "..."}`."""

from typing import Any

from pydantic import BaseModel

from ggserve.api.errors import APIError, error_responses


class OllamaError(BaseModel):
    """The body of an error response."""

    error: str


OLLAMA_ERRORS = error_responses(OllamaError)


def ollama_envelope(error: APIError) -> dict[str, Any]:
    """Return the body of an error response, or the last line of a failed stream."""
    return {"error": error.naming_message}
