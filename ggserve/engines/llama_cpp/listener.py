"""A llama-server's HTTP listener, private to this process: a Unix socket in a private folder, and a random key.

If the system or the build does not support Unix sockets, it is a port on the loopback interface.
"""

import http.client
import json
import secrets
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ggserve import temporary
from ggserve.errors import EngineError, InvalidRequest

_POLL = 0.25  # seconds between checks whether a waiting request was cancelled
_LOOK = 0.01  # seconds between looks at a slot
_NOTICED = 30.0  # seconds within which a slot notices that its request was broken off: two batches of a prompt
_MOST_AT_ONCE = 1 << 16  # bytes

# Seconds of silence after which a build counts as one that never answers, by the beginning of the path.
_PATIENCE: dict[str, float | None] = {
    "/completion": None,  # an answer takes as long as it takes
    "/slots/": 600.0,  # waits for a batch of other slots, then reads or writes gigabytes
    "/": 120.0,
}


class Unanswered(EngineError):
    """A build accepts a request and stays silent."""


class _PrivateConnection(http.client.HTTPConnection):
    def __init__(self, connect: Callable[[], socket.socket], path: str) -> None:
        super().__init__("localhost")
        self._connect = connect
        self.patience = next(seconds for start, seconds in _PATIENCE.items() if path.startswith(start))

    def connect(self) -> None:
        self.sock = self._connect()
        self.sock.settimeout(self.patience)


class PrivateListener:
    """The address of a llama-server, and a client for it."""

    def __init__(self, *, unix: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=temporary.prefix()))  # mode 0700
        self.path = self.folder / "s.sock"  # short, because a socket's path is limited to about 100 characters
        self.key = secrets.token_urlsafe(32)
        self.port = None if unix and hasattr(socket, "AF_UNIX") else _free_port()

    def connect(self) -> socket.socket:
        """Return a connection. Raises OSError."""
        if self.port is not None:
            return socket.create_connection(("127.0.0.1", self.port))
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.path))
        except OSError:
            connection.close()
            raise
        return connection

    def ready(self) -> bool:
        """Return whether the model is loaded."""
        connection = _PrivateConnection(self.connect, "/health")
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def media_marker(self) -> str:
        """Return the marker that stands for an image in a prompt's text. Raises EngineError."""
        return str(self._request("GET", "/props", None).get("media_marker", "<__media__>"))

    def slots(self) -> list[dict[str, Any]]:
        """Return the states of the slots; empty if the build does not tell. Raises EngineError."""
        answer = self._request("GET", "/slots", None)
        return answer if isinstance(answer, list) else []

    def lora_adapters(self) -> Any:
        """Return the LoRA adapters and their scales. Raises EngineError."""
        return self._request("GET", "/lora-adapters", None)

    def wait_until_idle(self, slot: int | None) -> None:
        """Wait until a slot has noticed that its request was broken off."""
        deadline = time.monotonic() + _NOTICED
        while time.monotonic() < deadline:
            try:
                slots = self.slots()
            except EngineError:  # a crash, or a build that does not tell
                return
            if not any(each["id"] == slot and each.get("is_processing") for each in slots):
                return
            time.sleep(_LOOK)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the parsed response to a POST. Blocks for about a millisecond. Raises InvalidRequest, Unanswered or
        another EngineError."""
        answer = self.ask(path, body)
        if isinstance(answer, dict) and "error" in answer:
            raise InvalidRequest(answer["error"]["message"])
        return answer

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Return the parsed response, even if it is an error. Raises EngineError."""
        return self._request("POST", path, json.dumps(body))

    def _request(self, method: str, path: str, body: str | None) -> Any:
        connection = _PrivateConnection(self.connect, path)
        try:
            connection.request(method, path, body, self._headers)
            return json.load(connection.getresponse())
        except TimeoutError as error:
            raise Unanswered(f"llama.cpp has not answered {path} for {connection.patience:g} seconds") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineError(f"llama.cpp does not answer {path}: {error}") from error
        finally:
            connection.close()

    def stream(self, path: str, body: bytes, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        """Yield the response body, each time with all that has arrived. Ends early if `cancelled`.

        Raises OSError, or EOFError if the response is cut off.
        """
        head = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        with closing(self.connect()) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
            answer = _Body()
            while not answer.complete:
                while not select.select([connection], [], [], _POLL)[0]:
                    if cancelled():
                        return
                if not (received := connection.recv(_MOST_AT_ONCE)) and not answer.ends_by_closing:
                    raise EOFError("the connection was closed")
                yield answer.feed(received)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", "Connection": "close"}

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def whole_answer(parts: Iterable[bytes]) -> dict[str, Any]:
    """Return the parsed output of `stream`; empty if it ended early. Raises EngineError."""
    if not (text := b"".join(parts)):
        return {}
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise EngineError(f"llama.cpp's answer cannot be read: {error}") from error
    return answer


class _Body:
    """The body of an HTTP response in progress."""

    def __init__(self) -> None:
        self.complete = False
        self._chunked: bool | None = None  # None: the header has not arrived
        self._length: int | None = None  # remaining bytes of the chunk or of the whole body
        self._buffer = b""

    @property
    def ends_by_closing(self) -> bool:
        return self._chunked is False and self._length is None

    def feed(self, received: bytes) -> bytes:
        """Return the part of the body in the received bytes. b"" means that the connection was closed."""
        self._buffer += received
        if self._chunked is None:
            header, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return b""
            self._buffer = rest
            fields = dict(line.lower().split(b":", 1) for line in header.split(b"\r\n")[1:])
            self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
            length = fields.get(b"content-length")
            self._length = int(length) if length and not self._chunked else None
        if self._chunked:
            return b"".join(self._chunks())
        whole, self._buffer = self._buffer, b""
        if self._length is not None:
            self._length -= len(whole)
        self.complete = (self._length is not None and self._length <= 0) or not received
        return whole

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                return
            length = int(size.partition(b";")[0], 16)
            if len(rest) < length + 2:
                return
            self._buffer = rest[length + 2 :]
            if length == 0:
                self.complete = True
                return
            yield rest[:length]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
