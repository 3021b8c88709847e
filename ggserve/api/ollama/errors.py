"""Errors as Ollama words them: `{"error": "..."}`."""

from typing import Any

from pydantic import BaseModel

from ggserve.api.errors import APIError, error_responses


class OllamaError(BaseModel):
    """The body of an error's answer."""

    error: str


OLLAMA_ERRORS = error_responses(OllamaError)


def ollama_envelope(error: APIError) -> dict[str, Any]:
    """The body of an error's response, and the last line of a stream that breaks."""
    return {"error": error.naming_message}
