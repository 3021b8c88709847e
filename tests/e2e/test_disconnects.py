"""Clients that disconnect free everything they held, wherever their request was."""

import json
import re
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlparse

import httpx
import pytest

from tests.conftest import Server, serve
from tests.processes import PATIENCE


@pytest.fixture(scope="module")
def narrow(tmp_path_factory, shallow_path) -> Iterator[Server]:
    """A server with one slot and room for one in the queue."""
    settings = {"MODEL_PATH": str(shallow_path), "PARALLEL": "1", "QUEUE_SIZE": "1"}
    with serve(tmp_path_factory.mktemp("logs"), **settings) as server:
        yield server


LONG = {"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True, "stream": True}


def send(server: Server, body: dict) -> socket.socket:
    """A request whose answer nobody reads yet."""
    address = urlparse(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname, address.port))
    content = json.dumps(body).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    )
    return connection


def wait_for(server: Server, condition) -> dict:
    deadline = time.monotonic() + PATIENCE
    while not condition(health := httpx.get(f"{server.url}/health").json()):
        assert time.monotonic() < deadline, health
        time.sleep(0.02)
    return health


def last_line(server: Server) -> str:
    """Return the log line of the last completion."""
    deadline = time.monotonic() + PATIENCE
    while not (lines := [line for line in server.log().splitlines() if "/v1/completions" in line]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return lines[-1]


def tokens_after_the_first(server: Server) -> float:
    """Return the number of tokens in all answers."""
    metrics = httpx.get(f"{server.url}/metrics").text
    return float(re.search(r"^ggserve:inter_token_latency_seconds_count (\S+)", metrics, re.MULTILINE)[1])


MANY = {**LONG, "prompt": ["Once upon a time"] * 256, "max_tokens": 50}


def is_idle(health: dict) -> bool:
    return health["slots_idle"] == 1 and health["waiting"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_during_the_answer(narrow, stream):
    before = tokens_after_the_first(narrow)
    connection = send(narrow, {**LONG, "stream": stream})
    wait_for(narrow, lambda health: tokens_after_the_first(narrow) > before)
    connection.close()
    wait_for(narrow, is_idle)
    assert "Traceback" not in narrow.log("console")
    line = last_line(narrow)
    assert " 499 " in line
    assert int(re.search(r" (\d+) out", line)[1]) > 1


def test_leaving_during_a_long_prompt(narrow):
    connection = send(narrow, {**LONG, "prompt": "one two three four " * 1200})
    wait_for(narrow, lambda health: health["slots_idle"] == 0)
    connection.close()
    wait_for(narrow, is_idle)
    wait_for(narrow, lambda health: "prompt tokens processed" in narrow.log())  # written after the response
    found = re.search(r" 499 .* (\d+) of (\d+) prompt tokens processed", narrow.log())
    assert int(found[1]) < int(found[2])


def test_leaving_while_waiting_and_a_full_queue(narrow):
    running = send(narrow, LONG)
    wait_for(narrow, lambda health: health["slots_idle"] == 0)
    waiting = send(narrow, LONG)
    wait_for(narrow, lambda health: health["waiting"] == 1)
    refused = httpx.post(f"{narrow.url}/v1/completions", json=LONG)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1
    waiting.close()
    wait_for(narrow, lambda health: health["waiting"] == 0)
    running.close()
    wait_for(narrow, is_idle)
    assert httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2}).status_code == 200


def test_requests_that_never_end_take_nobodys_place(narrow):
    address = urlparse(narrow.url)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    unfinished = [socket.create_connection((address.hostname, address.port)) for _ in range(5)]
    for connection in unfinished:
        connection.sendall(head)
    time.sleep(0.2)
    assert httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2}).status_code == 200
    for connection in unfinished:
        connection.close()


def test_many_prompts_in_one_request_let_others_between(narrow):
    connection = send(narrow, {**MANY, "stream": False})
    wait_for(narrow, lambda health: health["slots_idle"] == 0)
    other = httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2})
    assert other.status_code == 200
    assert not is_idle(httpx.get(f"{narrow.url}/health").json())
    connection.close()
    wait_for(narrow, is_idle)
