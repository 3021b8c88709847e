"""The framing of requests: upgrades, trailers, bodies after a rejection."""

import json
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlparse

import pytest

from tests.conftest import FAMILY_FILES, Server, serve
from tests.processes import PATIENCE

KEY = "k"
BODY = json.dumps({"prompt": "a b", "max_tokens": 1}).encode()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = str(FAMILY_FILES / "llama.f16.v2.gguf")
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=model, API_KEY=KEY, MAX_HEADER_KB="8") as server:
        yield server


def answer(server: Server, *pieces: bytes) -> tuple[int, bytes]:
    """Send bytes in pieces; return the status, and everything until the server closes the connection."""
    address = urlparse(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while piece := connection.recv(1 << 16):
                received += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
    return int(received.split(b" ", 2)[1]) if received else 0, received


def head(*fields: str, path: str = "/v1/completions", key: str | None = KEY) -> bytes:
    keys = [f"x-api-key: {key}"] if key else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *keys, *fields, "", ""]).encode()


CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")


@pytest.mark.parametrize("split", [0, 1])
def test_an_upgrade_to_http_2_is_declined_and_the_body_is_read(keyed: Server, split: int) -> None:
    begin = head(*UPGRADE, f"Content-Length: {len(BODY)}", "Connection: close")
    pieces = (begin, BODY) if split else (begin + BODY,)
    status, received = answer(keyed, *pieces)
    assert (status, b'"completion_tokens":1' in received) == (200, True)
    first, last = (head(*UPGRADE, CHUNKED, *more) + CHUNK + b"\r\n" for more in ((), ("Connection: close",)))
    assert answer(keyed, first + last)[1].count(b'"completion_tokens":1') == 2


def test_curl_s_http_2_works(keyed: Server) -> None:
    command = ["curl", "-sS", "--http2", "-H", f"x-api-key: {KEY}", "-d", BODY.decode(), f"{keyed.url}/v1/completions"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "not supported" in ran.stderr:
        pytest.skip("this curl knows no HTTP/2")
    assert json.loads(ran.stdout)["usage"]["completion_tokens"] == 1


def test_connect_is_refused(keyed: Server) -> None:
    assert answer(keyed, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")[0] == 400


def test_a_trailer_is_no_header(keyed: Server) -> None:
    request = head(CHUNKED, "Connection: close", key=None) + CHUNK + f"x-api-key: {KEY}\r\n\r\n".encode()
    assert answer(keyed, request)[0] == 401


def test_a_trailer_of_many_fields_is_dropped(keyed: Server) -> None:
    fields = [b"x-%d: a\r\n" % number for number in range(100_000)]
    assert answer(keyed, head(CHUNKED, "Connection: close"), CHUNK, b"".join(fields), b"\r\n")[0] == 200


@pytest.mark.parametrize("begin", [CHUNK + b"x: ", b"5;a="], ids=["trailer", "extension"])
def test_what_never_ends_is_closed(keyed: Server, begin: bytes) -> None:
    status, received = answer(keyed, head(CHUNKED) + begin, *[b"a" * 4096] * 1000)
    assert status in (0, 431)
    assert received.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
def test_a_refusal_before_the_body_is_the_only_answer(keyed: Server, size: int) -> None:
    address = urlparse(keyed.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    for _ in range(3):
        connection.request("POST", "/v1/completions", body=b"a" * size)  # in many pieces
        refused = connection.getresponse()
        assert (refused.status, json.loads(refused.read())["error"]["code"]) == (401, "invalid_api_key")
    connection.request("POST", "/v1/completions", body=BODY, headers={"x-api-key": KEY})
    answered = connection.getresponse()
    assert answered.status == 200, answered.read()
    connection.close()


def test_a_refusal_of_a_client_that_waits_to_send_closes(keyed: Server) -> None:
    """What it would send next could be the body, or another request."""
    status, received = answer(keyed, head("Expect: 100-continue", f"Content-Length: {len(BODY)}", key=None))
    assert (status, received.count(b"HTTP/1.1")) == (401, 1)
