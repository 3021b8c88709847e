"""`python -m bench.cluster`: the cost of Ray and the gain of prefix-aware routing, against one process on the same
cores.

Needs the extra `cluster`, two cores and an otherwise idle machine; takes some minutes, and two with `--quick`, which
only shows that it works. Writes bench/cluster.json; `--only NAME` runs one part and keeps the figures of the others.
"""

import argparse
import asyncio
import http.client
import importlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psutil

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.types import Receive, Scope, Send

from bench.client import Answer, chat, complete
from bench.machine import machine
from bench.prompts import first_turn, next_turn, words
from bench.servers import ROOT, Running, Server, Setup, free_port, running
from ggserve.cluster.application import CONTROLLER_OPTIONS, application
from ggserve.cluster.gateway import Gateway
from ggserve.cluster.response import respond
from ggserve.cluster.router import PromptRouter
from ggserve.settings import load_settings

RESULTS = ROOT / "bench/cluster.json"
_REPLICAS = 3  # of the part about routing
_TICKS, _TICK_SECONDS = 400, 0.01  # of the answer that measures the cost of a piece


@dataclass(frozen=True)
class Size:
    """The amount of work."""

    tries: int = 3  # of comparisons by time
    tokens: int = 300  # of a long answer
    chats: int = 30
    turns: int = 4
    slots: int = 10  # of each of three replicas: one for each chat
    pieces: tuple[float, ...] = (0.0, 0.03, 0.1)  # seconds within which pieces of an answer are joined


QUICK = Size(tries=1, tokens=60, chats=6, turns=3, slots=2, pieces=(0.0, 0.03))


class RandomRouter(PromptRouter):
    """A router that picks any replica with a free slot."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        lengths = self.replica_queue_len_cache
        free = [r for r in candidate_replicas if (lengths.get(r.replica_id) or 0) < self._affinity._slots]
        return [[random.choice(free)]] if free else []


class Ticker:
    """A stand-in for a replica: emits text every 10 ms, and joins what comes within some time."""

    def __init__(self, piece_seconds: float) -> None:
        importlib.import_module("ggserve.cluster.response")._PIECE_SECONDS = piece_seconds  # type: ignore[attr-defined]

    async def answer(self, scope: Scope, body: bytes, marks: Sequence[int] | None) -> AsyncGenerator[Any, None]:
        async for piece in respond(_tick, scope, body):
            yield piece


async def _tick(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(_TICKS):
        await asyncio.sleep(_TICK_SECONDS)
        await send({"type": "http.response.body", "body": b"data: %0200d\n\n" % number, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def on_ray(build: Callable[[], serve.Application], cores: int) -> Iterator[Running]:
    """Run an application on its own Ray. `cores`: the number of cores that Ray believes in."""
    port, started = free_port(), time.perf_counter()
    ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, controller_options=CONTROLLER_OPTIONS)
        serve.run(build())
        ready = time.perf_counter() - started
        yield Running(psutil.Process(), f"http://127.0.0.1:{port}", ready, 0, 0)
    finally:
        serve.shutdown()
        ray.shutdown()


def on_replicas(replicas: int, slots: int, router: type[PromptRouter] = PromptRouter) -> Any:
    """Run replicas of one thread each on Ray."""
    given = {"replicas": str(replicas), "threads": 1, "parallel": slots, "context_length": 512, "log_dir": "/tmp/bench"}
    return on_ray(lambda: application(load_settings(given=given), router), replicas + 1)


def on_one(slots: int, threads: int) -> Any:
    """Run one process with all slots and all threads."""
    environment = {"THREADS": str(threads), "PARALLEL": str(slots), "CONTEXT_LENGTH": "512"}
    setup = Setup(Path(), Path(), threads, 512)
    return running(Server(["env", "PORT={port}", sys.executable, "main.py"], environment, slots=slots), setup)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, its children, and Ray's processes."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


async def together(url: str, streams: int, tokens: int, seed: str) -> float:
    """Return the tokens per second of concurrent streams."""
    started = time.perf_counter()
    prompts = [words(8, f"{seed} {n}") for n in range(streams)]
    await asyncio.gather(*(complete(url, prompt, tokens) for prompt in prompts))
    return streams * tokens / (time.perf_counter() - started)


async def short(url: str, seed: str) -> float:
    """Return the milliseconds of a request for one token."""
    times = []
    for n in range(20):
        answer = await complete(url, words(4, f"{seed} {n}"), 1)
        times.append(1000 * (answer.last - answer.sent))
    return median(times)


async def cached_share(url: str, size: Size) -> tuple[float, float]:
    """Return the share of prompt tokens found in the cache, for concurrent chats: of all turns, and of all but the
    first."""
    chats = [first_turn(40, f"chat {n}") for n in range(size.chats)]
    prompt, cached = [0] * size.turns, [0] * size.turns
    for turn in range(size.turns):
        answers: list[Answer] = await asyncio.gather(*(chat(url, messages, 8) for messages in chats))
        chats = [next_turn(m, a.text, f"{turn} {n}") for n, (m, a) in enumerate(zip(chats, answers, strict=True))]
        prompt[turn] = sum(answer.prompt_tokens or 0 for answer in answers)
        cached[turn] = sum(answer.cached_tokens for answer in answers)
    return sum(cached) / sum(prompt), sum(cached[1:]) / sum(prompt[1:])


def cost(size: Size) -> dict[str, float]:
    """Measure throughput, latency and CPU of two replicas of one thread each, against one process with two slots."""
    measured: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        measured.setdefault(name, []).append(value)
        print(f"  {name}: {value:.2f}", flush=True)

    for attempt in range(size.tries):
        servers: list[tuple[str, Any]] = [("one process", on_one(2, 2)), ("2 replicas", on_replicas(2, 1))]
        for name, server in servers if attempt % 2 else servers[::-1]:
            with server as up:
                asyncio.run(together(up.url, 2, 20, f"warm {attempt}"))
                before = cpu_seconds()
                rate = asyncio.run(together(up.url, 2, size.tokens, f"long {attempt}"))
                note(f"{name}, tokens/s", rate)
                note(f"{name}, ms of CPU a token", 1000 * (cpu_seconds() - before) / (2 * size.tokens))
                note(f"{name}, ms for one token", asyncio.run(short(up.url, f"short {attempt}")))
                before = cpu_seconds()
                time.sleep(5)
                note(f"{name}, % of a core when idle", 100 * (cpu_seconds() - before) / 5)
    found = {name: median(values) for name, values in measured.items()}
    one, ray_ = ({key: found[f"{name}, {key}"] for key in _COMPARED} for name in ("one process", "2 replicas"))
    found["tokens/s, replicas / process"] = ray_["tokens/s"] / one["tokens/s"]
    found["overhead, ms a request"] = ray_["ms for one token"] - one["ms for one token"]
    found["overhead, ms a token of an answer"] = 2000 / ray_["tokens/s"] - 2000 / one["tokens/s"]
    found["overhead, ms of CPU a token"] = ray_["ms of CPU a token"] - one["ms of CPU a token"]
    return found


_COMPARED = ("tokens/s", "ms for one token", "ms of CPU a token")


def pieces(size: Size) -> dict[str, float]:
    """Measure the CPU of Ray's processes per token, for each time within which tokens are joined."""
    measured: dict[str, float] = {}
    for seconds in size.pieces:

        def build(seconds: float = seconds) -> serve.Application:
            ticker = serve.deployment(Ticker, name="Replica", max_ongoing_requests=20).bind(seconds)
            gateway = serve.deployment(Gateway, name="Gateway", max_ongoing_requests=1000)
            return gateway.bind(ticker, frozenset(), {}, 1 << 20)

        with on_ray(build, 2) as up:
            _read(up.url)
            time.sleep(2)
            before, started = cpu_seconds(), time.monotonic()
            time.sleep(5)
            idle = (cpu_seconds() - before) / (time.monotonic() - started)
            before, started = cpu_seconds(), time.monotonic()
            first = _read(up.url)
            used = cpu_seconds() - before - idle * (time.monotonic() - started)
            measured[f"{seconds} s: ms of CPU a token"] = 1000 * used / _TICKS
            measured[f"{seconds} s: ms to the first"] = first
    return measured


def _read(url: str) -> float:
    """Read the ticker's answer and return the milliseconds until its first piece."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    started = time.perf_counter()
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read1()
    first = 1000 * (time.perf_counter() - started)
    response.read()
    return first


def routing(size: Size) -> dict[str, float]:
    """Measure the share of prompt tokens found in the cache: by prompts, at random, and in one process with all
    slots."""
    measured: dict[str, float] = {}
    for name, server in (
        ("one process", on_one(_REPLICAS * size.slots, 2)),
        ("3 replicas, by prompts", on_replicas(_REPLICAS, size.slots)),
        ("3 replicas, at random", on_replicas(_REPLICAS, size.slots, RandomRouter)),
    ):
        with server as up:
            share, later = asyncio.run(cached_share(up.url, size))
            print(f"  {name}: {share:.3f}, without the first turns {later:.3f}", flush=True)
            measured |= {name: share, f"{name}, without the first turns": later}
    for name in ("by prompts", "at random"):
        measured[f"{name} / one process"] = measured[f"3 replicas, {name}"] / measured["one process"]
    return measured


_PARTS = {"routing": routing, "cost": cost, "pieces": pieces}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="run a small amount of each part as a smoke test; writes no figures"
    )
    parser.add_argument("--only", choices=_PARTS)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, measure in _PARTS.items():
        if arguments.only in (None, name):
            print(name, flush=True)
            found = measure(QUICK if arguments.quick else Size())
            results[name] = {"date": str(date.today()), "machine": machine(), **found}
            print(json.dumps(results[name], indent=1), flush=True)
            if not arguments.quick:
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    importlib.import_module("bench.cluster").main()
