"""HTTP connections: uvicorn's, with the limits that it lacks. Knows nothing of what requests do."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

IDLE_SECONDS = 120  # idle time between requests: longer than clients keep a connection, or a request might be
# sent just as the server closes it (httpx keeps one 5 s, nginx and .NET 60 s, Go 90 s)

_OTHER_FILES = 64  # file descriptors that are not connections: model, logs, libraries, requests within the server
_MOST_DRAINED = 64 << 20  # bytes of a rejected request's body that are read, so that its client reads the error
_DRAIN_SECONDS = 20.0
_SEND_BUFFER = 64 << 10  # bytes that the system buffers for a client that does not read


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """The limits of connections. 0 seconds means no limit."""

    connections: int
    header_bytes: int
    header_seconds: float  # seconds to receive the request headers
    send_seconds: float  # seconds until a client reads on


def affordable_connections(wanted: int) -> int:
    """Raise the file-descriptor limit as far as the system allows and return how many of the wanted connections fit."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted + _OTHER_FILES:
        with suppress(ValueError, OSError):
            more = wanted + _OTHER_FILES if hard == unlimited else min(wanted + _OTHER_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return wanted if soft == unlimited else min(wanted, max(soft - _OTHER_FILES, soft // 2))


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._drained = 0
        self._part: Literal["none", "header", "body"] = "none"  # bytes received of a request
        self._body_began = False
        self._parsed_bytes = 0  # bytes of the last data that the parser has reported
        self._pending_bytes = 0  # bytes before them: the beginning of a field, or of a chunk's extension
        self._send_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "The request is not valid HTTP.", "invalid_http")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """If there are too many connections, close the one that has been idle longest, or if none is idle, this one."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections and not self._close_idle():
            self._refusal = (503, "The server has too many connections.", "too_many_connections")
            self.send_400_response("")
            return
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._stop_header_timer()
        self._stop_drain_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of what is incomplete: a header, a trailer, a chunk's extension."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._part == "none":
            self._await_header()
        self._parsed_bytes = 0
        self._feed(data)
        if self.transport.is_closing():
            return
        self._pending_bytes = max(0, self._pending_bytes + len(data) - self._parsed_bytes)
        if self._pending_bytes > self._limits.header_bytes:
            self._header_is_too_large()
            self.send_400_response("")
        elif self._part == "body" and self.cycle.response_complete:
            self._drain(len(data))

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._unset_keepalive_if_required()
        self._await_header()
        self._part, self._header_bytes = "header", 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Receive a piece of the request line."""
        self._parsed_bytes += len(url)
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header field. Fields of a trailer are dropped."""
        self._parsed_bytes += len(name) + len(value) + len(": \r\n")
        if self._part == "header":
            self._header_bytes += len(name) + len(value)
            self._check_header()
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request after its header."""
        self._check_header()
        self._pending_bytes = 0
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this server is not a proxy")
        if self.parser.should_upgrade():  # `_feed` parses it again
            return
        self._stop_header_timer()
        self._part, self._body_began = "body", False
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = _PlainAnswer(self.cycle).send  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        """Receive a piece of the body."""
        self._parsed_bytes += len(body)
        self._body_began = True
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Receive the size of a chunk."""
        self._parsed_bytes += len("1\r\n")

    def on_chunk_complete(self) -> None:
        """End a chunk."""
        self._parsed_bytes += len("\r\n")
        self._pending_bytes = 0

    def on_message_complete(self) -> None:
        """End a request. If it was already answered, its connection is idle from now on."""
        if self._part == "header":  # a request with an upgrade
            return
        self._part = "none"
        self._stop_drain_timer()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """End a response. If the client still waits for permission to send its body, nobody can tell what comes next,
        so the connection ends."""
        super().on_response_complete()
        if self._part == "body" and self.cycle.response_complete and self.expect_100_continue and not self._body_began:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Send uvicorn's response to invalid HTTP, as an error object."""
        # a second response would be taken for the next request's
        if self._part == "body" and self.cycle.response_started:
            self.transport.close()
            return
        status, message, code = self._refusal
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """Pause: the client does not read, or not fast enough."""
        super().pause_writing()
        if self._limits.send_seconds and self._send_timer is None:
            self._send_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Resume: the client has read."""
        self._stop_send_timer()
        super().resume_writing()

    def _close_idle(self) -> bool:
        """Cancel the timer; return whether it was running."""
        idle = {
            each.timeout_keep_alive_task.when(): each.transport
            for each in self.connections
            if isinstance(each, Connection) and each.timeout_keep_alive_task and not each.transport.is_closing()
        }
        if idle:
            idle[min(idle)].close()
        return bool(idle)

    def _feed(self, data: bytes) -> None:
        """Parse data. An upgrade (requested by Java's clients and curl for HTTP/2) is declined: httptools would take
        what follows the header for another protocol, so the header is parsed again without it."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head = b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
                fields = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade")
                data = head + fields + b"\r\n" + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # like uvicorn
            except httptools.HttpParserError:
                self.send_400_response("")
                return

    def _drain(self, count: int) -> None:
        """Keep reading, within bounds, after an early response, for a client that reads it only after sending
        everything."""
        if self._drain_timer is None:
            self._drained = 0
            self._drain_timer = self.loop.call_later(_DRAIN_SECONDS, self.transport.close)
        self._drained += count
        if self._drained > _MOST_DRAINED:
            self.transport.close()

    def _stop_drain_timer(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _await_header(self) -> None:
        if self._header_timer is None:
            seconds = self._limits.header_seconds or 1e9
            self._header_timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _check_header(self) -> None:
        if self._header_bytes > self._limits.header_bytes:
            self._header_is_too_large()
            raise ValueError("too large")

    def _header_is_too_large(self) -> None:
        limit = self._limits.header_bytes
        self._refusal = (431, f"The request headers are larger than {limit >> 10} KiB.", "header_too_large")


class _PlainAnswer:
    """A response to HTTP/1.0, which has no chunks: without a length it ends when the connection closes."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._plain = False

    async def send(self, message: Any) -> None:
        """Send an ASGI message."""
        cycle = self._cycle
        headers = message.get("headers", [])
        if message["type"] == "http.response.start" and b"content-length" not in dict(headers):
            self._plain = cycle.response_started = True
            lines = [b"%s: %s\r\n" % header for header in (*cycle.default_headers, *headers)]
            cycle.transport.write(b"".join([STATUS_LINE[message["status"]], *lines, b"connection: close\r\n\r\n"]))
        elif not self._plain:
            await self._send(message)
        else:
            await cycle.flow.drain()
            if cycle.disconnected:
                return
            cycle.transport.write(message.get("body", b""))
            if not message.get("more_body", False):
                cycle.response_complete = True
                cycle.message_event.set()
                cycle.transport.close()
                cycle.on_response()
