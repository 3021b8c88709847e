"""Stored responses, to be fetched or continued later: in memory, with the least recently used evicted first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

_MAX_COUNT = 1000
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class _Record:
    """A response and its input items as JSON, each item separate so that it can be read alone."""

    response: bytes  # without output items
    previous: str | None
    inputs: list[bytes]
    outputs: list[bytes]
    ids: list[str]  # item ids

    @property
    def size(self) -> int:
        return sum(map(len, (self.response, *self.inputs, *self.outputs)))


class ResponseStore:
    """The stored responses, each with its input items."""

    def __init__(self, max_count: int = _MAX_COUNT, max_bytes: int = _MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._items: dict[str, tuple[str, bytes]] = {}  # by item id: the response that contains it, and the item
        self._bytes = 0

    def put(self, response: dict[str, Any], input_items: list[dict[str, Any]]) -> None:
        """Store a response, and evict others if there is no room."""
        head, output = {**response, "output": []}, response["output"]
        inputs, outputs = ([orjson.dumps(item) for item in items] for items in (input_items, output))
        ids = [item["id"] for item in (*input_items, *output)]
        record = _Record(orjson.dumps(head), response["previous_response_id"], inputs, outputs, ids)
        self._records[response["id"]] = record
        self._bytes += record.size
        self._items |= {key: (response["id"], item) for key, item in zip(ids, (*inputs, *outputs), strict=True)}
        while len(self._records) > self._max_count or self._bytes > self._max_bytes:
            self.delete(next(iter(self._records)))

    def get(self, response_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Return a response and its input items, or None."""
        if (record := self._used(response_id)) is None:
            return None
        response: dict[str, Any] = orjson.loads(record.response)
        return {**response, "output": _read(record.outputs)}, _read(record.inputs)

    def delete(self, response_id: str) -> bool:
        """Delete a response. Return False if it was not there."""
        if (record := self._records.pop(response_id, None)) is None:
            return False
        self._bytes -= record.size
        for key in record.ids:
            if self._items.get(key, ("", b""))[0] == response_id:
                del self._items[key]
        return True

    def conversation(self, response_id: str) -> list[bytes] | None:
        """Return the items of a response and of all responses that it continues, oldest first, as JSON; None if one is
        missing."""
        turns = []
        following: str | None = response_id
        while following:
            if (record := self._used(following)) is None:
                return None
            turns.append([*record.inputs, *record.outputs])
            following = record.previous
        return [item for turn in reversed(turns) for item in turn]

    def item(self, item_id: str) -> bytes | None:
        """Return an item by its id, as JSON, or None."""
        response_id, item = self._items.get(item_id, ("", None))
        self._used(response_id)
        return item

    def _used(self, response_id: str) -> _Record | None:
        if (record := self._records.get(response_id)) is not None:
            self._records.move_to_end(response_id)
        return record


def _read(items: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(item) for item in items]
