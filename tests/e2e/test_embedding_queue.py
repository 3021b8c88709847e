"""Embedding requests by the hundred: none is refused, chats go on, and the server stops when it is told to."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server, serve
from tests.e2e.test_lifecycle import stop_listening
from tests.processes import PATIENCE

REQUESTS = 110


@pytest.fixture(scope="module", params=["shallow_path", "shallow_original_path"], ids=["ctransformers", "llama.cpp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the last test ends."""
    model = str(request.getfixturevalue(request.param))
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=model) as server:
        yield server


def texts(response: httpx.Response) -> list[Any]:
    found: Any = response.raise_for_status().json()
    return found["data"][0]["embedding"] if "data" in found else (found.get("embeddings") or [found["embedding"]])[0]


def test_a_document_of_110_chunks_is_embedded_beside_a_chat(server: Server) -> None:
    async def main(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            paths = {"/v1/embeddings": "input", "/api/embed": "input", "/api/embeddings": "prompt"}
            name = (await client.get("/v1/models")).json()["data"][0]["id"]
            chunks = [
                client.post(path, json={"model": name, field: f"Chunk {number}"})
                for number in range(REQUESTS)
                for path, field in [list(paths.items())[number % len(paths)]]
            ]
            chat = client.post("/v1/completions", json={"model": "any", "prompt": "Hi", "max_tokens": 4})
            *answers, answer = await asyncio.gather(*chunks, chat)
            assert {response.status_code for response in answers} == {200}
            assert all(len(texts(response)) == 576 for response in answers)
            assert answer.json()["usage"]["completion_tokens"] == 4

    asyncio.run(main(server.url))


def test_embeddings_that_would_take_minutes_do_not_hold_up_the_end(server: Server) -> None:
    async def main() -> list[Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            name = (await client.get("/v1/models")).json()["data"][0]["id"]
            body = {"model": name, "input": ["word " * 6000] * 16}
            running = [asyncio.ensure_future(client.post("/v1/embeddings", json=body)) for _ in range(4)]
            while (health := (await client.get("/health")).json())["slots_idle"] == health["slots"]:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(stop_listening, server)
            server.process.terminate()  # the second signal ends answers at once
            await asyncio.to_thread(server.process.wait, PATIENCE)
            return await asyncio.gather(*running, return_exceptions=True)

    found = asyncio.run(main())
    assert server.process.returncode == 0
    assert all(isinstance(each, httpx.HTTPError) or each.status_code == 503 for each in found)
