"""MODELS_DIR and KEEP_ALIVE: every answer comes from the named model, and memory stays within the limit."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from ggserve.hub.default import packaged_model
from tests.conftest import FAMILY_FILES, ROOT, Server, clean_environment, serve
from tests.e2e.test_lifecycle import stop_listening
from tests.processes import PATIENCE

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


def mapped(server: Server) -> list[str]:
    """The files that the server's processes map for running code or reading weights, one for each copy."""
    root = psutil.Process(server.process.pid)
    maps = [Path(f"/proc/{each.pid}/maps").read_text() for each in (root, *root.children(recursive=True))]
    fields = [line.split(maxsplit=5) for text in maps for line in text.splitlines()]
    return sorted({f"{inode} {path}" for *_, inode, path in (each for each in fields if len(each) == 6)})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_switching_keeps_no_copies_of_native_libraries(server: Server) -> None:
    def copies() -> int:
        for _ in range(5):
            for name in NAMES:
                assert complete(server, name).status_code == 200
        return sum("ctransformers" in each for each in mapped(server))

    before = copies()
    assert before > 0
    assert copies() == before


def resident(server: Server) -> int:
    root = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (root, *root.children(recursive=True)))


def test_an_unused_model_is_unloaded_and_comes_back(tmp_path: Path) -> None:
    path = packaged_model()
    assert path is not None
    with serve(tmp_path, MODEL_PATH=str(path), KEEP_ALIVE="1", CONTEXT_LENGTH="2048", PARALLEL="4") as server:
        body = {"prompt": "One, two,", "max_tokens": 4, "temperature": 0}

        def ask() -> str:
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE)
            return str(answer.json()["choices"][0]["text"])

        first, size = ask(), path.stat().st_size
        running = {**body, "max_tokens": 1500, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=running, timeout=PATIENCE) as answer:
            next(answer.iter_raw())
            with_model = resident(server)  # while the answer runs, the model stays
        deadline = time.monotonic() + PATIENCE
        while httpx.get(f"{server.url}/health").json().get("model", "") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while resident(server) > with_model - size // 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask() == first


def loaded(server: Server) -> set[str]:
    return {model["name"] for model in httpx.get(f"{server.url}/api/ps").json()["models"]}


def complete(server: Server, name: str) -> httpx.Response:
    body = {"model": name, "prompt": "a b", "max_tokens": 1}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)


def test_alternating_models_stay_loaded_under_each_of_their_names(server: Server) -> None:
    for name in ("llama.f16.v2", "mpt.f32:latest", "llama.f16.v2:latest", "mpt.f32"):
        assert complete(server, name).status_code == 200
    assert loaded(server) == set(NAMES)
    log = server.log("model.log").count("loaded ")
    for name in NAMES * 2:
        assert complete(server, name).status_code == 200
    assert server.log("model.log").count("loaded ") == log


def test_a_request_that_only_unloads_loads_nothing(server: Server) -> None:
    assert complete(server, "mpt.f32").status_code == complete(server, "llama.f16.v2").status_code == 200
    for path in ("generate", "chat"):
        body = {"model": "mpt.f32", "keep_alive": 0}
        answer = httpx.post(f"{server.url}/api/{path}", json=body).json()
        assert (answer["done"], answer["done_reason"]) == (True, "unload")
        assert loaded(server) == {"llama.f16.v2"}
    refused = httpx.post(f"{server.url}/api/generate", json={"model": "mpt.f32", "keep_alive": "soon"})
    assert refused.status_code == 400
    assert "keep_alive" in refused.json()["error"]


def test_a_model_stays_as_long_as_its_last_request_says(server: Server) -> None:
    body = {"model": "mpt.f32", "prompt": "a", "max_tokens": 1}
    for field in ({"keep_alive": "0s"}, {"ttl": 0}):
        assert httpx.post(f"{server.url}/v1/completions", json={**body, **field}).status_code == 200
        deadline = time.monotonic() + PATIENCE
        while "mpt.f32" in loaded(server):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_removed_damaged_and_renamed_files_disturb_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("stays", "removed", "damaged", "renamed"):
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / f"{name}.gguf")
    with serve(tmp_path, MODELS_DIR=str(folder), CONTEXT_LENGTH="64") as server:
        assert complete(server, "stays").status_code == complete(server, "removed").status_code == 200
        (folder / "removed.gguf").unlink()
        (folder / "damaged.gguf").write_bytes(b"GGUF")
        (folder / "renamed.gguf").rename(folder / "new.gguf")
        for path in ("/v1/models", "/api/tags", "/api/ps", "/health"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
        names = {model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}
        assert names == {"stays", "new"}
        for name in ("removed", "damaged", "renamed"):
            assert complete(server, name).status_code == 404
        assert complete(server, "stays").status_code == complete(server, "new").status_code == 200


def test_a_crash_restarts_the_worker_and_c_code_writes_to_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "m.gguf")
    with serve(tmp_path, MODELS_DIR=str(folder), CONTEXT_LENGTH="64") as server:
        assert complete(server, "m").status_code == 200
        (worker,) = psutil.Process(server.process.pid).children()
        worker.send_signal(signal.SIGSEGV)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if complete(server, "m").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert "the worker was killed by SIGSEGV" in server.log("console")


def test_health_and_liveness_hold_during_a_load_and_sigterm_waits_for_none(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "quick.gguf")
    os.mkfifo(folder / "fifo")  # what is no file is no model
    slow = folder / "slow.gguf"
    path = packaged_model()
    assert path is not None
    slow.symlink_to(path)
    environment = {"CONTEXT_LENGTH": "64", "PYTHONPATH": f"{Path(__file__).parent}/slow_load", "SLOW_LOAD": "slow"}
    with serve(tmp_path, MODELS_DIR=str(folder), **environment) as server:
        assert complete(server, "quick").status_code == 200
        with ThreadPoolExecutor(1) as client:
            waiting = client.submit(complete, server, "slow")
            deadline = time.monotonic() + PATIENCE
            while "slow.gguf is slow" not in server.log("console"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for path_ in ("/health", "/livez"):
                assert httpx.get(f"{server.url}{path_}").status_code == 200
            assert complete(server, "quick").status_code == 200
            stop_listening(server)
            server.process.terminate()
            assert server.process.wait(PATIENCE) in (0, 130)
            assert isinstance(waiting.exception(), httpx.TransportError) or waiting.result().status_code == 503


def test_a_folder_that_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", "--port", "0", "--models-dir", str(tmp_path / "absent")]
    environment = {**clean_environment(), "LOG_DIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2
    assert "MODELS_DIR" in ended.stderr
    assert "no such folder" in ended.stderr
