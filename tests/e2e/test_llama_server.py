"""A server on the user's own llama-server: what it reports, and what crashes cost."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil

from tests.conftest import Server, serve
from tests.llama_server import launcher
from tests.processes import PATIENCE

ASKED = {"prompt": "The three primary colours are", "max_tokens": 8000, "ignore_eos": True, "stream": True}


def child(server: Server) -> psutil.Process:
    """Return the llama-server that answers, when it does."""
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=60).raise_for_status()
    return next(
        each for each in psutil.Process(server.process.pid).children(recursive=True) if "--model" in each.cmdline()
    )


def test_its_deaths_cost_the_running_answers_and_the_fifth_ends_the_server(shallow_original_path: Path, tmp_path: Path):
    settings = {"MODEL_PATH": str(shallow_original_path), "CONTEXT_LENGTH": "8192", "PARALLEL": "2"}
    with serve(tmp_path, **settings, LLAMA_SERVER=str(launcher(tmp_path))) as server:
        health = httpx.get(f"{server.url}/health").json()
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        for told in (health, model):
            assert told["engine_build"].startswith("llama-server ")
            assert (told["devices"], told["gpu_layers"], told["fallback"]) == ([], None, None)
        assert "ggserve:gpu_fallback" in httpx.get(f"{server.url}/metrics").text
        assert health["engine_build"] in server.log("model.log")

        first = child(server)
        with httpx.stream("POST", f"{server.url}/v1/completions", json=ASKED, timeout=60) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if line.startswith("data: "))
            first.kill()
            last = [line for line in lines if line.startswith("data: {")][-1]
        assert "llama-server crashed" in json.loads(last.removeprefix("data: "))["error"]["message"]
        for _ in range(4):
            child(server).send_signal(signal.SIGKILL)
        assert server.process.wait(PATIENCE) == 1
        assert "crashed 5 times in a row" in server.log("console").splitlines()[-1]


def test_nothing_is_left_when_the_server_is_killed(shallow_original_path: Path, tmp_path: Path):
    with serve(tmp_path, MODEL_PATH=str(shallow_original_path), LLAMA_SERVER=str(launcher(tmp_path))) as server:
        last = child(server)
        for each in psutil.Process(server.process.pid).children():
            if each.pid != last.pid:
                os.kill(each.pid, signal.SIGKILL)  # the worker; the supervisor starts another
        deadline = time.monotonic() + PATIENCE
        while last.is_running() and last.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
