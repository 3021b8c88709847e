"""A cache that all slots share, filled to its end: requests wait for room, and every answer is whole."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import Server, serve
from tests.llama_server import launcher
from tests.processes import PATIENCE
from tests.shallow_model import write_shallow_model

SLOTS, CONTEXT = 4, 512
LONG, ANSWER = 190, 150  # tokens: two such requests fill the cache
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

Body = dict[str, Any]


@pytest.fixture(scope="module", params=["in process", "child"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, original_path: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("model")
    path = write_shallow_model(original_path, folder / "model.gguf")
    child = request.param == "child"
    memory = -(-path.stat().st_size // (1 << 20)) + 2  # MiB: too little for a cache for each slot
    settings = {"PARALLEL": str(SLOTS), "CONTEXT_LENGTH": str(CONTEXT), "MODELS_MEMORY": str(memory)}
    settings |= {"ENGINE": "llama.cpp", "LLAMA_SERVER": str(launcher(folder)) if child else "off"}
    with serve(folder / "logs", **settings, MODEL_PATH=str(path)) as server:
        assert "slots that share a cache of" in server.log("model.log")
        yield server


def text(seed: int, tokens: int = LONG) -> str:
    return " ".join(WORDS[(seed * 7 + number * number * 3 + number * seed) % 10] for number in range(tokens))


def chat(prompt: str) -> Body:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": ANSWER}


# By path: the request's body, and the tokens of its answer.
DIALECTS: dict[str, tuple[Callable[[str], Body], Callable[[Body], int]]] = {
    "/v1/completions": (
        lambda prompt: {"prompt": prompt, "max_tokens": ANSWER},
        lambda answer: answer["usage"]["completion_tokens"],
    ),
    "/v1/chat/completions": (chat, lambda answer: answer["usage"]["completion_tokens"]),
    "/v1/messages": (chat, lambda answer: answer["usage"]["output_tokens"]),
    "/completion": (
        lambda prompt: {"prompt": prompt, "n_predict": ANSWER},
        lambda answer: answer["tokens_predicted"],
    ),
}


async def post(client: httpx.AsyncClient, path: str, body: Body) -> Body:
    response = await client.post(path, json={"ignore_eos": True, **body})
    assert response.status_code == 200, response.text
    answer: Body = response.json()
    return answer


async def streamed(client: httpx.AsyncClient, body: Body) -> list[Body]:
    """Returns the events of a stream."""
    body |= {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [orjson.loads(line[6:]) for line in lines[:-1]]


def idle(server: Server) -> None:
    """Waits until all slots are, and asks once more."""
    deadline = time.monotonic() + PATIENCE
    while (health := httpx.get(f"{server.url}/health").json())["slots_idle"] < SLOTS:
        assert time.monotonic() < deadline, health
        time.sleep(0.05)
    assert health["waiting"] == 0
    body = {"prompt": text(99), "max_tokens": ANSWER, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).json()
    assert answer["usage"]["completion_tokens"] == ANSWER


def test_requests_of_every_dialect_wait_for_room_and_get_whole_answers(server: Server) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            paths = [*DIALECTS]
            bodies = [DIALECTS[path][0](text(number)) for number, path in enumerate(paths)]
            stream = asyncio.ensure_future(streamed(client, {"prompt": text(50), "max_tokens": ANSWER}))
            answers = await asyncio.gather(*map(post, [client] * len(paths), paths, bodies))
            tokens = [DIALECTS[path][1](answer) for path, answer in zip(paths, answers, strict=True)]
            assert tokens == [ANSWER] * len(paths)
            assert (await stream)[-1]["usage"]["completion_tokens"] == ANSWER

    asyncio.run(main())
    idle(server)


def test_answers_without_a_limit_end_with_length_and_fail_no_other(server: Server) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            endless = [{"prompt": text(number, 30)} for number in range(60, 64)]
            bodies = [*endless, {"prompt": text(70), "max_tokens": ANSWER}]
            answers = await asyncio.gather(*(post(client, "/v1/completions", body) for body in bodies))
        reasons = [answer["choices"][0]["finish_reason"] for answer in answers]
        assert reasons == ["length"] * len(bodies)
        *lengths, whole = [answer["usage"]["completion_tokens"] for answer in answers]
        assert (min(lengths) > CONTEXT // (2 * SLOTS), whole) == (True, ANSWER)

    asyncio.run(main())
    idle(server)


def test_clients_that_leave_give_their_room_back_and_fail_no_other(server: Server) -> None:
    async def leave(client: httpx.AsyncClient, number: int) -> None:
        for attempt in range(4):
            body = {"prompt": text(number + attempt, 450), "ignore_eos": True}
            with suppress(httpx.TimeoutException):
                await client.post("/v1/completions", json=body, timeout=0.05 + (number + attempt) % 5 / 10)

    async def stay(client: httpx.AsyncClient, number: int) -> None:
        answer = await post(client, "/v1/completions", {"prompt": text(number, 450), "max_tokens": 20})
        assert answer["usage"]["completion_tokens"] == 20

    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            leaving = (leave(client, number) for number in range(100, 140, 10))
            await asyncio.gather(*leaving, *(stay(client, number) for number in range(200, 206)))

    asyncio.run(main())
    idle(server)
