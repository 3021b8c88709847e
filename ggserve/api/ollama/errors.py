"""Errors in Ollama's form: `{"error": "..."}`."""

from typing import Any

from pydantic import BaseModel

from ggserve.api.errors import APIError, error_responses


class OllamaError(BaseModel):
    """The body of an error response."""

    error: str


OLLAMA_ERRORS = error_responses(OllamaError)


def ollama_envelope(error: APIError) -> dict[str, Any]:
    """Return the body of an error response, and the last line of a stream that fails."""
    return {"error": error.naming_message}
