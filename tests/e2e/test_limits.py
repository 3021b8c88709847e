"""Limits on connections, on the real server."""

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlparse

import httpx
import pytest

from tests.conftest import FAMILY_FILES, Server, serve
from tests.e2e.test_disconnects import MANY, last_line, send, wait_for
from tests.e2e.test_lifecycle import run, stop_listening
from tests.processes import PATIENCE


@pytest.fixture(scope="module")
def strict(tmp_path_factory) -> Iterator[Server]:
    settings = {"HEADER_TIMEOUT": "1", "MAX_HEADER_KB": "8", "SEND_TIMEOUT": "1", "MAX_CONNECTIONS": "20"}
    model = str(FAMILY_FILES / "llama.f16.v2.gguf")
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=model, **settings) as server:
        yield server


def connect(server: Server, content: bytes = b"") -> socket.socket:
    address = urlparse(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=PATIENCE)
    connection.sendall(content)
    return connection


def rest(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(1 << 16):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("half", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: local"])
def test_half_a_header_is_closed(strict, half):
    with connect(strict, half) as connection:
        assert rest(connection) == b""


@pytest.mark.parametrize(
    "header",
    [b"X: " + b"a" * 9000 + b"\r\n", b"".join(b"X%d: a\r\n" % number for number in range(2000)), b"X: " + b"a" * 9000],
)
def test_a_large_header_is_a_431(strict, header):
    with connect(strict, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n") as connection:
        assert rest(connection).startswith(b"HTTP/1.1 431")


def test_no_http_is_an_error_object(strict):
    with connect(strict, b"\x16\x03\x01 hello\r\n\r\n") as connection:
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_the_connection_that_idles_longest_makes_room(strict):
    address = urlparse(strict.url)
    many = [HTTPConnection(address.hostname, address.port, timeout=PATIENCE) for _ in range(30)]
    for each in (*many, many[15]):
        each.request("GET", "/health")
        response = each.getresponse()
        response.read()
        assert response.status == 200
    assert rest(many[0].sock) == b""
    for each in many:
        each.close()


@pytest.mark.parametrize(("soft", "hard"), [(100, 100), (100, 4096)])
def test_file_descriptors_do_not_run_out(soft, hard, tmp_path):
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    program = f"{few}; import runpy; runpy.run_path('main.py', run_name='__main__')"
    with serve(tmp_path, command=("-c", program), MODEL_PATH=str(FAMILY_FILES / "llama.f16.v2.gguf")) as server:
        many = [connect(server, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(200)]
        assert all(each.recv(1 << 16).startswith(b"HTTP/1.1 ") for each in many)
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        for each in many:
            each.close()
        assert "Too many open files" not in server.log("console")


def test_too_many_connections_are_a_503(strict):
    many = [connect(strict) for _ in range(20)]
    with connect(strict) as connection:
        assert rest(connection).startswith(b"HTTP/1.1 503")
    for each in many:
        each.close()


def test_a_client_that_keeps_connections_as_long_as_httpx_loses_no_request(strict):
    with connect(strict, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert connection.recv(1 << 16).endswith(b"\r\n\r\n")
        connection.settimeout(5.5)  # httpx keeps a connection for 5 seconds
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_reader_that_stops_is_cut_off(strict):
    with send(strict, {**MANY, "logprobs": 20}):  # 2 kB per token: more than the system buffers
        wait_for(strict, lambda health: health["slots_idle"] < 4)
        wait_for(strict, lambda health: health["slots_idle"] == 4)
        line = last_line(strict)
    assert " 499 " in line
    assert int(re.search(r" (\d+) out", line)[1]) < 256 * 50
    assert "Traceback" not in strict.log("console")


def test_many_prompts_in_one_request_leave_a_slot(strict):
    with send(strict, {**MANY, "stream": False}):
        wait_for(strict, lambda health: health["slots_idle"] < 4)
        idle = [httpx.get(f"{strict.url}/health").json()["slots_idle"] for _ in range(20)]
        other = httpx.post(f"{strict.url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
    assert 1 in idle
    assert 0 not in idle
    assert other.status_code == 200
    wait_for(strict, lambda health: health["slots_idle"] == 4)


@pytest.mark.parametrize("stream", [True, False])
def test_http_1_0_gets_no_chunks(strict, stream):
    body = json.dumps({"prompt": "a", "max_tokens": 3, "ignore_eos": True, "stream": stream}).encode()
    head = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(strict, head + body) as connection:
        head, _, content = rest(connection).partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"chunked" not in head.lower()
    assert content.startswith(b"data: {" if stream else b"{")
    assert content.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_a_bad_certificate_is_one_line(tmp_path):
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    ended = run(SSL_CERTFILE=str(bad), LOG_DIR=str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("ggserve: SSL_CERTFILE=")
    assert "Traceback" not in ended.stderr


def test_answers_have_at_most_max_tokens(tmp_path):
    model = str(FAMILY_FILES / "llama.f16.v2.gguf")
    with serve(tmp_path, MODEL_PATH=model, MAX_TOKENS="3") as server:
        for asked in ({}, {"max_tokens": 9}):
            body = {"prompt": "a", "ignore_eos": True, **asked}
            answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
            assert answer["usage"]["completion_tokens"] == 3
            assert answer["choices"][0]["finish_reason"] == "length"


def test_a_second_signal_cuts_a_reader_that_stopped(tmp_path):
    with (
        serve(tmp_path, MODEL_PATH=str(FAMILY_FILES / "llama.f16.v2.gguf")) as server,
        send(server, {**MANY, "logprobs": 20}),
    ):
        wait_for(server, lambda health: health["slots_idle"] < 4)
        stop_listening(server)  # meanwhile the system's buffer gets full
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in server.log("console")
