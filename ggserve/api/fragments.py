"""Long JSON lists, written piece by piece: no step takes long, and the list never exists as Python objects."""

from collections.abc import Sequence
from typing import Any

import orjson

from ggserve.api.errors import APIError

_MOST_BYTES = 64 << 20


class Fragments:
    """The log-probabilities of an answer that is not streamed. Raises a 400 if they become too long."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0

    def add(self, items: Sequence[Any]) -> None:
        """Append items that orjson can serialize."""
        if not items:
            return
        piece = orjson.dumps(items)[1:-1]
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes > _MOST_BYTES:
            message = (
                f"The answer's log-probabilities take more than {_MOST_BYTES >> 20} MiB: stream it, or request fewer."
            )
            raise APIError(400, message, param="top_logprobs", code="too_many_logprobs")

    @property
    def json(self) -> Any:
        """Return the list as a fragment for orjson."""
        return orjson.Fragment(b"[%s]" % b",".join(self._pieces))
