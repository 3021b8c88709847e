"""A response without HTTP: whole, ended when nobody wants it, and with text that arrives together in one piece."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ggserve.cluster.response import Head, get_scope, respond

App = Callable[[Scope, Receive, Send], Awaitable[None]]


def streaming(pieces: list[bytes], *, ended: bool = True) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        if ended:
            await send({"type": "http.response.body", "body": b""})

    return app


async def collect(app: App) -> list[Any]:
    return [item async for item in respond(app, get_scope("/"), b"")]


def test_all_of_it_arrives_in_few_pieces() -> None:
    pieces = [b"%d " % n for n in range(100)]
    head, *rest = asyncio.run(collect(streaming(pieces)))
    assert isinstance(head, Head)
    assert (head.status, head.headers) == (200, [(b"a", b"b")])
    assert head.body.startswith(b"0 ")
    assert head.body + b"".join(rest) == b"".join(pieces)
    assert len(rest) < 10


def test_the_app_reads_the_body_once() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    async def run() -> list[Any]:
        return [item async for item in respond(echo, get_scope("/"), b"hello")]

    assert asyncio.run(run()) == [Head(201, [], b"hello")]


def test_closing_ends_the_work() -> None:
    async def run() -> bool:
        ended = asyncio.Event()

        async def endless(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await receive()
                await receive()  # a client that never leaves
            finally:
                ended.set()

        response = respond(endless, get_scope("/"), b"")
        await anext(response)
        await response.aclose()
        await asyncio.wait_for(ended.wait(), 1)
        return ended.is_set()

    assert asyncio.run(run())


@pytest.mark.parametrize("app", [streaming([b"a"], ended=False)])
def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(app: App) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(collect(app))
