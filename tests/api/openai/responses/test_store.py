"""Responses are stored as long as there is room, the recently used ones longest."""

from typing import Any

import orjson
import pytest

from ggserve.api.openai.responses.store import ResponseStore


def response(name: str, previous: str | None = None, text: str = "") -> dict[str, Any]:
    return {"id": name, "previous_response_id": previous, "output": [{"id": f"out_{name}", "text": text}]}


def items(name: str) -> list[dict[str, Any]]:
    return [{"id": f"in_{name}"}]


def store_of(*names: str, **limits: int) -> ResponseStore:
    store = ResponseStore(**limits)
    for name in names:
        store.put(response(name), items(name))
    return store


def test_what_is_kept_comes_back_and_goes_when_deleted() -> None:
    store = store_of("a")
    assert store.get("a") == (response("a"), items("a"))
    assert orjson.loads(store.item("in_a") or b"") == {"id": "in_a"}
    assert orjson.loads(store.item("out_a") or b"") == response("a")["output"][0]
    assert store.delete("a")
    assert not store.delete("a")
    assert (store.get("a"), store.item("in_a"), store.conversation("a")) == (None, None, None)


def test_a_conversation_is_all_turns_in_order() -> None:
    store = store_of("a")
    store.put(response("b", "a"), items("b"))
    found = store.conversation("b")
    assert found is not None
    assert [orjson.loads(item)["id"] for item in found] == ["in_a", "out_a", "in_b", "out_b"]
    store.delete("a")
    assert store.conversation("b") is None


def test_the_least_recently_used_goes_first() -> None:
    store = store_of("a", "b", max_count=2)
    store.get("a")
    store.put(response("c"), items("c"))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]
    assert store.item("in_b") is None


def test_bytes_are_bounded() -> None:
    store = store_of("a", "b", max_bytes=1000)
    store.put(response("c", text="x" * 900), items("c"))
    assert [store.get(name) is not None for name in "abc"] == [False, False, True]
    store.put(response("d", text="x" * 2000), items("d"))
    assert store.get("d") is None


def test_an_item_is_read_without_the_rest_of_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResponseStore()
    store.put({**response("a"), "metadata": {"note": "x" * 5_000_000}}, items("a"))
    read = 0

    def counting(value: bytes) -> Any:
        nonlocal read
        read += len(value)
        return orjson.JSONDecodeError

    monkeypatch.setattr(orjson, "loads", counting)
    for _ in range(1000):
        store.item("in_a")
    assert read == 0
