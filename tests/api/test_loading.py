"""A stream that waits for its model says that it is alive, and then what the endpoint says."""

import asyncio
from typing import Any

import pytest

from ggserve.api import streaming
from ggserve.api.loading import SignsOfLife
from ggserve.api.streaming import COMMENT, Waiting

START = {"type": "http.response.start", "status": 200, "headers": []}


async def sent(*messages: dict[str, Any], waiting: Waiting | None, turns: int) -> list[dict[str, Any]]:
    """What goes out where the endpoint sends these messages after so many turns of the loop."""
    out: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        out.append(message)

    async with SignsOfLife({"state": {"waiting": waiting}}, send) as signs:
        for _ in range(turns):
            await asyncio.sleep(0.001)
        for message in messages:
            await signs.send(message)
    return out


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STATUS_SECONDS", 0)
    monkeypatch.setattr(streaming, "SILENT_SECONDS", 0)


def test_a_response_that_need_not_wait_is_sent_as_it_is() -> None:
    body = {"type": "http.response.body", "body": b"x"}
    assert asyncio.run(sent(START, body, waiting=Waiting(), turns=0)) == [START, body]
    assert asyncio.run(sent(START, body, waiting=None, turns=5)) == [START, body]


def test_keep_alives_come_first() -> None:
    body = {"type": "http.response.body", "body": b"x"}
    head, *alive, last = asyncio.run(sent(START, body, waiting=Waiting(), turns=9))
    assert (b"content-type", b"text/event-stream") in head["headers"]
    assert {each["body"] for each in alive} == {COMMENT}
    assert last == body


def test_an_error_becomes_an_event() -> None:
    error = [{**START, "status": 404}, {"type": "http.response.body", "body": b'{"error":{}}'}]
    *_, last = asyncio.run(sent(*error, waiting=Waiting(), turns=9))
    assert last["body"] == b'event: error\ndata: {"error":{}}\n\ndata: [DONE]\n\n'
