"""Errors as Ollama words them: `{"error": "..."}`."""

from typing import Any

from api.errors import APIError


def ollama_envelope(error: APIError) -> dict[str, Any]:
    """The body of an error's response, and the last line of a stream that breaks."""
    return {"error": str(error)}
