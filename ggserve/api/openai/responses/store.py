"""Responses that may be asked for, or gone on from, later: in memory, the least recently used forgotten first."""

from collections import OrderedDict
from typing import Any

import orjson

_MAX_COUNT = 1000
_MAX_BYTES = 64 << 20


_Record = tuple[dict[str, Any], list[dict[str, Any]]]  # a response, and its input items


class ResponseStore:
    """Each response with the input items that it answered, as JSON."""

    def __init__(self, max_count: int = _MAX_COUNT, max_bytes: int = _MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, bytes] = OrderedDict()
        self._of_item: dict[str, str] = {}  # by item id, the response that has it
        self._bytes = 0

    def put(self, response: dict[str, Any], input_items: list[dict[str, Any]]) -> None:
        """Keeps a response, and forgets others if there is no room."""
        record = orjson.dumps([response, input_items])
        self._records[response["id"]] = record
        self._bytes += len(record)
        for item in (*input_items, *response["output"]):
            self._of_item[item["id"]] = response["id"]
        while len(self._records) > self._max_count or self._bytes > self._max_bytes:
            self.delete(next(iter(self._records)))

    def get(self, response_id: str) -> _Record | None:
        """A response and its input items."""
        if (record := self._records.get(response_id)) is None:
            return None
        self._records.move_to_end(response_id)
        return _read(record)

    def delete(self, response_id: str) -> bool:
        """Forgets a response; returns whether it was there."""
        if (record := self._records.pop(response_id, None)) is None:
            return False
        self._bytes -= len(record)
        response, items = _read(record)
        for item in (*items, *response["output"]):
            if self._of_item.get(item["id"]) == response_id:
                del self._of_item[item["id"]]
        return True

    def conversation(self, response_id: str) -> list[dict[str, Any]] | None:
        """The items of a response and all that it follows, the oldest first; None where one is missing."""
        turns = []
        following: str | None = response_id
        while following:
            if (found := self.get(following)) is None:
                return None
            response, items = found
            turns.append([*items, *response["output"]])
            following = response["previous_response_id"]
        return [item for turn in reversed(turns) for item in turn]

    def item(self, item_id: str) -> dict[str, Any] | None:
        """An item by its id."""
        if (found := self.get(self._of_item.get(item_id, ""))) is None:
            return None
        response, input_items = found
        items: list[dict[str, Any]] = [*input_items, *response["output"]]
        return next(item for item in items if item["id"] == item_id)


def _read(record: bytes) -> _Record:
    response, items = orjson.loads(record)
    return response, items
