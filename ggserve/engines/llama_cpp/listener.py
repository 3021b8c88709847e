"""llama.cpp's own HTTP listener, kept to this process: a Unix socket in a private folder, and a random key.

Its server core always opens one. Here it answers what the core's Python interface lacks: the model's own tokenizer.
"""

import http.client
import json
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggserve.errors import EngineError, InvalidRequest


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class PrivateListener:
    """Where llama.cpp shall listen, and how to ask it there."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ggserve-"))  # mode 0700
        self.path = self._folder / "s.sock"  # short: a socket's path has room for about 100 characters
        self.key = secrets.token_urlsafe(32)

    def get(self, path: str) -> Any:
        """The answer to a request without a body, parsed. Raises InvalidRequest or EngineError."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, parsed. Blocks for about a millisecond. Raises InvalidRequest or EngineError."""
        return self._ask("POST", path, json.dumps(body))

    def stream(self, path: str, body: bytes) -> Iterator[bytes]:
        """The lines of a streamed answer. Closing the generator ends the request. Raises EngineError."""
        connection = _UnixConnection(self.path)
        try:
            connection.request("POST", path, body, self._headers)
            with connection.getresponse() as answer:
                for line in answer:
                    if stripped := line.strip():
                        yield stripped
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"llama.cpp does not answer {path}: {error}") from error
        finally:
            connection.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path, body, self._headers)
            answer = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineError(f"llama.cpp does not answer {path}: {error}") from error
        finally:
            connection.close()
        if "error" in answer:
            raise InvalidRequest(answer["error"]["message"])
        return answer

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
