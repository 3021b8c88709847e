"""Many clients at once: nobody starves, nothing is lost, too many are turned away cleanly."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import suppress
from urllib.parse import urlparse

import httpx
import pytest

from tests.conftest import serve
from tests.processes import PATIENCE


@pytest.fixture(scope="module")
def busy(tmp_path_factory, shallow_path):
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=str(shallow_path), CONTEXT_LENGTH="1024") as server:
        yield server


def test_clients_that_leave_lose_nothing(busy):
    async def client(number: int) -> None:
        """Streams that end, streams that are left after a token, requests that are left before an answer."""
        body = {"prompt": f"{number} and", "max_tokens": 8, "ignore_eos": True, "stream": True}
        async with httpx.AsyncClient(base_url=busy.url, timeout=PATIENCE) as session:
            for turn in range(6):
                async with session.stream("POST", "/v1/completions", json=body) as stream:
                    assert stream.status_code == 200
                    lines = [line async for line in stream.aiter_lines() if line] if turn % 2 else []
                assert not lines or lines[-1] == "data: [DONE]"
                with suppress(httpx.TimeoutException):
                    await session.post("/v1/completions", json={**body, "stream": False}, timeout=0.05)

    async def main() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    asyncio.run(main())
    deadline = time.monotonic() + PATIENCE
    while (health := httpx.get(f"{busy.url}/health").json())["slots_idle"] < health["slots"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert health["waiting"] == 0
    answer = httpx.post(f"{busy.url}/v1/completions", json={"prompt": "1, 2,", "max_tokens": 2})
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_parallel_answers_are_those_of_each_alone(busy):
    prompts = [f"{number}, {number + 1}, {number + 2}," for number in range(1, 9)]
    body = {"max_tokens": 12, "temperature": 0}

    async def together() -> list[str]:
        async with httpx.AsyncClient(base_url=busy.url, timeout=PATIENCE) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/completions", json={**body, "prompt": prompt}) for prompt in prompts)
            )
        return [answer.json()["choices"][0]["text"] for answer in answers]

    with httpx.Client(base_url=busy.url, timeout=PATIENCE) as client:
        alone = [
            client.post("/v1/completions", json={**body, "prompt": prompt}).json()["choices"][0]["text"]
            for prompt in prompts
        ]
    assert asyncio.run(together()) == alone


def test_a_long_prompt_does_not_stop_the_tokens_of_others(busy):
    async def main() -> int:
        """Tokens that come while a long prompt is evaluated."""
        async with httpx.AsyncClient(base_url=busy.url, timeout=PATIENCE) as client:
            body = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                long = asyncio.ensure_future(
                    client.post("/v1/completions", json={"prompt": "one two three " * 250, "max_tokens": 1})
                )
                tokens = 0
                async for line in lines:
                    tokens += line.startswith("data: {")
                    if long.done():
                        break
                assert (await long).status_code == 200
                return tokens

    assert asyncio.run(main()) > 10


async def post(url: str, body: dict) -> bytes:
    """A bare client, since hundreds of real ones would dominate the measurement; returns the whole response."""
    address = urlparse(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(content) + content)
    response = await reader.read()
    writer.close()
    return response


PROBE = """
import http.client, sys, threading
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
connection = http.client.HTTPConnection(sys.argv[1], timeout=120)
answers = 0
while not ended.is_set():
    connection.request("GET", "/health")
    answers += connection.getresponse().read().startswith(b'{"status":"ok"')
print(answers)
"""


def test_500_connections_are_answered_or_refused_and_health_answers_meanwhile(busy):
    async def main() -> list[bytes]:
        return await asyncio.gather(*(post(busy.url, {"prompt": f"{n}", "max_tokens": 2}) for n in range(500)))

    # In a process of its own, so that the other ends of 500 connections do not hold it up.
    command = [sys.executable, "-c", PROBE, urlparse(busy.url).netloc]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        responses = asyncio.run(main())
        health_answers = int(probe.communicate()[0])
    answered = [response for response in responses if response.startswith(b"HTTP/1.1 200")]
    refused = [response for response in responses if response.startswith(b"HTTP/1.1 429")]
    assert len(answered) + len(refused) == 500
    assert len(answered) >= 64
    assert all(b"rate_limit_error" in response and b"retry-after: " in response for response in refused)
    assert health_answers > 10
