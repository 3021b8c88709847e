"""HTTP connections: uvicorn's, with the limits that it lacks. What a request may do is decided elsewhere."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

IDLE_SECONDS = 120  # that a connection waits for its next request: longer than clients keep one, or a request may be
# sent just as the server closes (httpx keeps one 5 s, nginx and .NET 60 s, Go 90 s)

_OTHER_FILES = 64  # file descriptors that are no connections: model, logs, libraries, requests within the server
_SEND_BUFFER = 64 << 10  # bytes that the system keeps for a client that does not read


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """The limits of connections. Seconds are 0 where there is no limit."""

    connections: int
    header_bytes: int
    header_seconds: float  # until a request's header is there
    send_seconds: float  # until a client reads on


def affordable_connections(wanted: int) -> int:
    """So many of the wanted ones as the system has file descriptors for, of which as many are asked for as it gives."""
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
        self._send_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "The request is no valid HTTP.", "invalid_http")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Where there are too many, closes the one that has idled longest; where none idles, this one."""
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
        """Forgets what it waits for."""
        self._stop_header_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of a header that is not complete yet."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._await_header()
        super().data_received(data)
        if self._header_timer is not None and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                self._header_is_too_large()
                self.send_400_response("")

    def on_headers_complete(self) -> None:
        """A header is there: its request begins."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limits.header_bytes:
            self._header_is_too_large()
            raise ValueError("too large")
        self._stop_header_timer()
        self._header_bytes = 0
        super().on_headers_complete()
        if self.cycle is not None and self.scope["http_version"] == "1.0":
            self.cycle.send = _PlainAnswer(self.cycle).send  # type: ignore[method-assign]

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no request, as an error object."""
        status, message, code = self._refusal
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = orjson.dumps({"error": error})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read, or not quickly enough."""
        super().pause_writing()
        if self._limits.send_seconds and self._send_timer is None:
            self._send_timer = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._stop_send_timer()
        super().resume_writing()

    def _close_idle(self) -> bool:
        """Whether there was one."""
        idle = {
            each.timeout_keep_alive_task.when(): each.transport
            for each in self.connections
            if isinstance(each, Connection) and each.timeout_keep_alive_task and not each.transport.is_closing()
        }
        if idle:
            idle[min(idle)].close()
        return bool(idle)

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

    def _header_is_too_large(self) -> None:
        limit = self._limits.header_bytes
        self._refusal = (431, f"The request's header is larger than {limit >> 10} KiB.", "header_too_large")


class _PlainAnswer:
    """An answer to HTTP/1.0, which knows no chunks: without a length it goes on until the connection closes."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._plain = False

    async def send(self, message: Any) -> None:
        """ASGI's send."""
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
