"""The one HTTP client for all servers. It shares their cores, so while a stream runs it only records bytes and times;
the bytes are parsed when everything is over."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

TIMEOUT = 300.0  # seconds for one answer

Json = dict[str, Any]


class BenchError(Exception):
    """A server failed, or did something else than requested. `str()` is one line."""


@dataclass(frozen=True)
class Answer:
    """An answer and its times, in seconds of time.perf_counter()."""

    text: str
    tokens: int  # of the completion; pieces of text if the server does not count tokens
    prompt_tokens: int | None  # None: the server does not count
    cached_tokens: int  # tokens of the prompt, as the server reports them
    sent: float
    first: float  # arrival of the first text
    last: float  # arrival of the last text
    streamed: bool

    @property
    def first_token_seconds(self) -> float:
        return self.first - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first; for a server that does not stream, all tokens over the whole time."""
        if self.streamed and self.last > self.first:
            return (self.tokens - 1) / (self.last - self.first)
        return self.tokens / (self.last - self.sent)


class _Exchange(asyncio.Protocol):
    """Send one request on one connection, which the server closes; keep the pieces of the answer with their times."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.sent = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def complete(url: str, prompt: str, tokens: int) -> Answer:
    """Request exactly this many tokens after a text."""
    return await _post(url, "/v1/completions", {"prompt": prompt}, tokens)


async def chat(url: str, messages: list[dict[str, str]], tokens: int) -> Answer:
    """Request an answer of exactly this many tokens."""
    return await _post(url, "/v1/chat/completions", {"messages": messages}, tokens)


async def _post(url: str, path: str, body: Json, tokens: int) -> Answer:
    greedy = {"max_tokens": tokens, "temperature": 0, "seed": 1, "ignore_eos": True}
    payload = orjson.dumps({**body, **greedy, "stream": True, "stream_options": {"include_usage": True}})
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    exchange = _Exchange(head.encode() + payload)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_connection(lambda: exchange, host, int(port))
        try:
            await asyncio.wait_for(exchange.closed, TIMEOUT)
        finally:
            transport.abort()
    except TimeoutError as error:
        raise BenchError(f"{path}: no answer within {TIMEOUT:.0f} s") from error
    except OSError as error:
        raise BenchError(f"{path}: {error}") from error
    answer = read_answer(exchange.pieces, exchange.sent)
    if answer.streamed and answer.prompt_tokens is not None and answer.tokens != tokens:
        raise BenchError(f"{path}: expected {tokens} tokens, got {answer.tokens}")
    return answer


def read_answer(pieces: list[tuple[float, bytes]], sent: float) -> Answer:
    """Return the answer that arrived in these pieces, each with its time. Raises BenchError unless it is complete."""
    head, _, first_body = b"".join(data for _, data in pieces).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise BenchError(f"HTTP status {status[0].decode()}: {first_body[:300]!r}" if status else "no response")
    headers = head.lower()
    body = _body(pieces, len(head) + 4, chunked=b"transfer-encoding: chunked" in headers)
    if b"text/event-stream" in headers:
        return _streamed(_events(body), sent)
    answer = orjson.loads(b"".join(data for _, data in body))
    end = body[-1][0]
    return Answer(_text(answer), *_usage(answer["usage"]), sent=sent, first=end, last=end, streamed=False)


def _body(pieces: list[tuple[float, bytes]], start: int, *, chunked: bool) -> list[tuple[float, bytes]]:
    """Return the pieces without the head, `start` bytes long, and without the frames of the chunked coding (RFC
    9112)."""
    body: list[tuple[float, bytes]] = []
    skip = start  # bytes that are not part of the body
    left = 0 if chunked else sys.maxsize  # bytes until the next frame
    frame = b""
    for when, piece in pieces:
        data = piece[skip:]
        skip = max(0, skip - len(piece))
        while data:
            if left:
                body.append((when, data[:left]))
                left, data = left - len(data[:left]), data[left:]
                continue
            line, newline, data = data.partition(b"\n")
            frame += line.strip()
            if newline and frame:  # the empty line is the one that ends a chunk
                left, frame = int(frame.split(b";")[0], 16), b""
                if not left:
                    return body
    return body


def _events(body: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield the payload of each server-sent event, with the time of its last byte."""
    rest = b""
    for when, data in body:
        *events, rest = (rest + data.replace(b"\r", b"")).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield when, event.removeprefix(b"data: ")
            elif event.startswith((b"event: error", b"error: ")):
                raise BenchError(event.decode("utf-8", "replace"))


def _streamed(events: Iterator[tuple[float, bytes]], sent: float) -> Answer:
    texts: list[tuple[float, str]] = []
    usage: Json = {}
    done = False
    for when, payload in events:
        if payload == b"[DONE]":
            done = True
            continue
        chunk = orjson.loads(payload)
        if "error" in chunk:
            raise BenchError(str(chunk["error"]))
        usage = chunk.get("usage") or usage
        if text := _text(chunk):
            texts.append((when, text))
    if not done:
        raise BenchError("the stream was cut off")
    if not texts:
        raise BenchError("the answer has no text")
    usage = usage or {"completion_tokens": len(texts), "prompt_tokens": None}
    text = "".join(text for _, text in texts)
    return Answer(text, *_usage(usage), sent=sent, first=texts[0][0], last=texts[-1][0], streamed=True)


def _text(answer: Json) -> str:
    """Return the text of a completion or chat completion, or of a chunk of one."""
    if not answer["choices"]:
        return ""
    choice = answer["choices"][0]
    return str(choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or "")


def _usage(usage: Json) -> tuple[int, int | None, int]:
    """Return the tokens of the completion, the tokens of the prompt, and how many of these were cached."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return usage["completion_tokens"], usage["prompt_tokens"], cached
