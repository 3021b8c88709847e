"""Types of fields that dialects share."""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator


def _writable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(value)
    except TypeError as error:  # half a character, a number of more than 64 bits, hundreds of levels
        raise ValueError(f"cannot be written as JSON: {error}") from error
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_writable)]
