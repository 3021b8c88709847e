"""MODELS_DIR and KEEP_ALIVE: every answer comes from the model that was named, and memory is one model's."""

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ggserve.hub.default import packaged_model
from tests.conftest import FAMILY_FILES, Server, serve

NAMES = ("llama.f16.v2", "mpt.f32")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder)
    shutil.copy(FAMILY_FILES / "mpt.f32.bin", folder)
    (folder / "broken.gguf").write_bytes((FAMILY_FILES / "llama.f16.v2.gguf").read_bytes()[:5000])
    with serve(tmp_path_factory.mktemp("logs"), MODELS_DIR=str(folder), CONTEXT_LENGTH="64", QUEUE_SIZE="64") as server:
        yield server


def test_the_folder_is_listed_without_what_cannot_run(server: Server) -> None:
    assert {model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]} == set(NAMES)
    assert httpx.get(f"{server.url}/v1/models/mpt.f32").json()["id"] == "mpt.f32"


def test_an_unknown_name_is_a_404_with_the_names(server: Server) -> None:
    for name in ("gpt-5", "broken"):
        answer = httpx.post(f"{server.url}/v1/completions", json={"model": name, "prompt": "a", "max_tokens": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert all(known in answer.json()["error"]["message"] for known in NAMES)


def test_every_answer_is_from_the_model_that_was_named(server: Server) -> None:
    async def main() -> list[tuple[str, httpx.Response]]:
        async with httpx.AsyncClient(timeout=120) as client:

            async def ask(name: str) -> tuple[str, httpx.Response]:
                body = {"model": name, "prompt": "a b", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
                return name, await client.post(f"{server.url}/v1/completions", json=body)

            async def one_client(number: int) -> list[tuple[str, httpx.Response]]:
                return [await ask(NAMES[(number + turn // 5) % 2]) for turn in range(50)]

            return [found for answers in await asyncio.gather(*map(one_client, range(4))) for found in answers]

    answers = asyncio.run(main())
    assert len(answers) == 200
    texts: dict[str, set[str]] = {name: set() for name in NAMES}
    for name, answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        texts[name].add(answer.json()["choices"][0]["text"])
    assert all(len(found) == 1 for found in texts.values())
    assert len(set.union(*texts.values())) == 2
    assert httpx.get(f"{server.url}/health").json()["slots_idle"] == httpx.get(f"{server.url}/health").json()["slots"]


def test_switching_takes_no_memory_for_good(server: Server) -> None:
    def sizes() -> tuple[float, float]:  # MiB of addresses, MiB resident
        for _ in range(5):
            for name in NAMES:
                body = {"model": name, "prompt": "a b", "max_tokens": 1}
                assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
        used = [child.memory_info() for child in psutil.Process(server.process.pid).children()]
        return sum(info.vms for info in used) / 2**20, sum(info.rss for info in used) / 2**20

    before, after = sizes(), sizes()
    assert after[0] - before[0] < 256  # the buffers of one context of MPT are 768
    assert after[1] - before[1] < 8


def test_an_unused_model_is_unloaded_and_comes_back(tmp_path: Path) -> None:
    path = packaged_model()
    assert path is not None
    with serve(tmp_path, MODEL_PATH=str(path), KEEP_ALIVE="1", CONTEXT_LENGTH="2048", PARALLEL="4") as server:
        body = {"prompt": "One, two,", "max_tokens": 4, "temperature": 0}
        first = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        loaded = sum(process.memory_info().rss for process in processes)
        deadline = time.monotonic() + 30
        while httpx.get(f"{server.url}/health").json().get("model", "") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        unloaded = sum(process.memory_info().rss for process in processes)
        assert loaded - unloaded > path.stat().st_size // 2
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"] == first
