"""`python -m bench.simulate`: chats on 10 to 1,000 simulated replicas, event by event. Needs no Ray and no model.

A replica is a core that its running answers share equally, with a slot for each of them that keeps its last chat. The
times of tokens are measured: `--measure` does it here, otherwise the last measurement in bench/simulate.json is used.
Routing by prompts is the gateway's own (ggserve/cluster/affinity.py). Networks, gateways and failures cost nothing.
"""

import argparse
import asyncio
import heapq
import json
import random
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

from bench.client import complete
from bench.machine import machine
from bench.prompts import words
from bench.report import MARKERS, aligned
from bench.servers import ROOT, Server, Setup, running
from ggserve.cluster.affinity import Affinity

RESULTS = ROOT / "bench/simulate.json"
PICTURE = ROOT / "docs/simulation.png"
_REPLICAS = (10, 100, 1000)
_LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
_WARM = 0.25  # part of the chats that fills the caches and is not counted


@dataclass(frozen=True)
class Service:
    """The core seconds that a token takes."""

    prompt: float
    cached: float  # of the prompt, found in the cache
    output: float


@dataclass(frozen=True)
class Load:
    """The behaviour of users. All values are tokens except `think`: the mean seconds until the next turn, exponentially
    distributed."""

    turns: int = 4
    first: int = 200
    question: int = 30
    answer: int = 100
    think: float = 20.0

    def prompt(self, turn: int) -> tuple[int, int]:
        """Return the tokens of a turn's prompt, and those that the last turn left in the cache."""
        known = self.first + turn * self.answer + (turn - 1) * self.question if turn else 0
        return known + (self.question if turn else self.first), known

    def seconds(self, service: Service) -> float:
        """Return a request's mean core seconds if each turn finds the last one in the cache."""
        prompts = [self.prompt(turn) for turn in range(self.turns)]
        new, known = sum(prompt - known for prompt, known in prompts), sum(known for _, known in prompts)
        return (new * service.prompt + known * service.cached) / self.turns + self.answer * service.output


@dataclass(eq=False)
class Request:
    """A turn of a chat."""

    chat: int
    turn: int
    arrived: float
    work: tuple[float, float] = (0.0, 0.0)  # core seconds until the first token, and after it
    first: float = 0.0
    done: float = 0.0
    cached: int = 0


@dataclass(eq=False)
class Replica:
    """A core, shared by its answers. `clock` is the core seconds that each of them has had."""

    clock: float = 0.0
    seen: float = 0.0  # the time for which `clock` is right
    running: list[tuple[float, int, Request]] = field(default_factory=list)  # a heap: `clock` at the end of a part
    # tokens by chat, the oldest first; at most as many as there are free slots
    held: dict[int, int] = field(default_factory=dict)
    version: int = 0

    def advance(self, now: float) -> None:
        if self.running:
            self.clock += (now - self.seen) / len(self.running)
        self.seen = now

    def next(self) -> float:
        """Return when the next part ends, if nothing changes."""
        return self.seen + (self.running[0][0] - self.clock) * len(self.running)


class Routing(Protocol):
    """Finds the number of the replica for a turn; None if all slots are taken."""

    def __call__(self, loads: Mapping[int, int], free: Sequence[int], request: Request) -> int | None: ...


def by_prompt(slots: int) -> Routing:
    affinity: Affinity[int] = Affinity(slots)

    def choose(loads: Mapping[int, int], free: Sequence[int], request: Request) -> int | None:
        marks = [hash((request.chat, turn)) for turn in range(request.turn + 1)]
        return affinity.choose(loads, marks) if free else None

    return choose


def at_random(slots: int) -> Routing:
    return lambda loads, free, request: random.choice(free) if free else None


def less_busy_of_two(slots: int) -> Routing:
    def choose(loads: Mapping[int, int], free: Sequence[int], request: Request) -> int | None:
        return min(random.choices(free, k=2), key=loads.__getitem__) if free else None

    return choose


ROUTINGS = {"by prompts": by_prompt, "less busy of two": less_busy_of_two, "at random": at_random}


class _Free:
    """The replicas that have a free slot, as a list to draw from."""

    def __init__(self, replicas: int) -> None:
        self.names = list(range(replicas))
        self._places = {name: name for name in self.names}

    def set(self, name: int, free: bool) -> None:
        if free and name not in self._places:
            self._places[name] = len(self.names)
            self.names.append(name)
        elif not free and name in self._places:
            place, last = self._places.pop(name), self.names.pop()
            if last != name:
                self.names[place], self._places[last] = last, place


def simulate(
    routing: Routing, replicas: int, slots: int, rate: float, chats: int, service: Service, load: Load, seed: int = 0
) -> list[Request]:
    """Simulate all turns of the chats and return them in the order in which they ended; `rate`: new chats per
    second."""
    random.seed(seed)
    machines = [Replica() for _ in range(replicas)]
    loads = dict.fromkeys(range(replicas), 0)
    free = _Free(replicas)
    waiting: deque[Request] = deque()
    ended: list[Request] = []
    ticket = count()
    events: list[tuple[float, int, int, Any]] = []  # time, ticket, the replica or -1, the request or a version
    draw = random.Random(seed)  # the same arrivals for every routing

    def plan(name: int) -> None:
        replica = machines[name]
        replica.version += 1
        if replica.running:
            heapq.heappush(events, (replica.next(), next(ticket), name, replica.version))

    def admit(now: float) -> None:
        while waiting and (name := routing(loads, free.names, waiting[0])) is not None:
            request, replica = waiting.popleft(), machines[name]
            prompt, known = load.prompt(request.turn)
            request.cached = min(known, replica.held.pop(request.chat, 0))
            while len(replica.held) + loads[name] >= slots:  # a slot forgets the least recently used chat
                del replica.held[next(iter(replica.held))]
            fresh = (prompt - request.cached) * service.prompt + request.cached * service.cached
            request.work = fresh + service.output, (load.answer - 1) * service.output
            replica.advance(now)
            loads[name] += 1
            free.set(name, loads[name] < slots)
            heapq.heappush(replica.running, (replica.clock + request.work[0], next(ticket), request))
            plan(name)

    arrival = 0.0
    for chat in range(chats):
        arrival += draw.expovariate(rate)
        heapq.heappush(events, (arrival, next(ticket), -1, Request(chat, 0, arrival)))
    thinking = [[draw.expovariate(1 / load.think) for _ in range(load.turns)] for _ in range(chats)]
    while events:
        now, _, name, what = heapq.heappop(events)
        if name < 0:
            waiting.append(what)
            admit(now)
            continue
        replica = machines[name]
        if what != replica.version:
            continue
        replica.advance(now)
        _, _, request = heapq.heappop(replica.running)
        if not request.first:
            request.first = now
            heapq.heappush(replica.running, (replica.clock + request.work[1], next(ticket), request))
        else:
            request.done = now
            ended.append(request)
            loads[name] -= 1
            free.set(name, True)
            replica.held[request.chat] = load.prompt(request.turn)[0] + load.answer
            if request.turn + 1 < load.turns:
                later = now + thinking[request.chat][request.turn]
                heapq.heappush(events, (later, next(ticket), -1, Request(request.chat, request.turn + 1, later)))
        plan(name)
        admit(now)
    return ended


def figures(ended: Sequence[Request], chats: int, load: Load) -> dict[str, float]:
    """Return, for the turns of chats that came after the caches had filled, the share of prompt tokens found in the
    cache and the seconds to the first token; and the tokens per second while chats arrived."""
    counted = [request for request in ended if request.chat >= _WARM * chats]
    begin = min(request.arrived for request in counted)
    end = max(request.arrived for request in ended if request.turn == 0)
    waits = [request.first - request.arrived for request in counted]
    return {
        "cached": sum(r.cached for r in counted) / sum(load.prompt(r.turn)[0] for r in counted),
        "p50": median(waits),
        "p95": quantiles(waits, n=20)[-1],
        "tokens_per_second": sum(load.answer for r in ended if begin <= r.done <= end) / (end - begin),
    }


def rows(service: Service, load: Load, slots: int, chats: int, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Return a row of figures for each number of replicas, load and routing; `chats`: per replica."""
    for replicas in sizes:
        for offered in _LOADS:
            rate = offered * replicas / load.seconds(service) / load.turns
            for name, routing in ROUTINGS.items():
                ended = simulate(routing(slots), replicas, slots, rate, chats * replicas, service, load)
                yield {"replicas": replicas, "load": offered, "routing": name, **figures(ended, chats * replicas, load)}


def measure() -> dict[str, Any]:
    """Measure the core seconds of a token: one process, one thread, the default model. Takes a minute."""
    prompt, tokens = 200, 100
    setup = Setup(Path(), Path(), 1, 512)
    environment = {"THREADS": "1", "PARALLEL": "4", "CONTEXT_LENGTH": "512"}

    async def times(url: str) -> dict[str, float]:
        fresh, again, each, four = [], [], [], []
        await complete(url, words(8, "warm"), 8)
        for attempt in range(3):
            text = words(prompt, f"simulate {attempt}")
            first, second = [await complete(url, text, 1) for _ in range(2)]
            answer = await complete(url, words(8, f"decode {attempt}"), tokens)
            each.append(1 / answer.decode_rate)
            fresh.append((first.last - first.sent - each[-1]) / (prompt - first.cached_tokens))
            again.append(max(0.0, second.last - second.sent - each[-1]) / max(1, second.cached_tokens))
            started = time.perf_counter()
            await asyncio.gather(*(complete(url, words(8, f"four {attempt} {n}"), tokens) for n in range(4)))
            four.append(4 * tokens / (time.perf_counter() - started))
        return {"prompt": median(fresh), "cached": median(again), "output": median(each), "four": median(four)}

    with running(Server(["env", "PORT={port}", sys.executable, "main.py"], environment, slots=4), setup) as up:
        found = asyncio.run(times(up.url))
    together = found.pop("four")
    return {"date": str(date.today()), "machine": machine(), **found, "tokens_per_second_of_4": together}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [["replicas", "load", "routing", "cached", "first token, p50", "p95", "tokens/s"]]
    for row in found:
        waits = [f"{row[name]:.2f} s" for name in ("p50", "p95")]
        cells = [f"{row['replicas']:,}", f"{row['load']:.0%}", row["routing"], f"{row['cached']:.0%}"]
        lines.append([*cells, *waits, f"{row['tokens_per_second']:,.0f}"])
    return "\n".join(aligned(lines, left=3))


def draw(found: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Draw a column for each number of replicas: the cached share, the first token, and the throughput by load."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = sorted({row["replicas"] for row in found})
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subplots(3, len(sizes), sharex=True, sharey="row", squeeze=False)
    for column, size in enumerate(sizes):
        for name, (marker, colour) in zip(ROUTINGS, MARKERS, strict=False):
            mine = [row for row in found if row["replicas"] == size and row["routing"] == name]
            across = [100 * row["load"] for row in mine]
            style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2}
            shares, seconds, rates = parts[:, column]
            shares.plot(across, [100 * row["cached"] for row in mine], label=name, **style)
            seconds.plot(across, [row["p95"] for row in mine], **style)
            seconds.plot(across, [row["p50"] for row in mine], **{**style, "linestyle": ":"})
            rates.plot(across, [row["tokens_per_second"] / size for row in mine], **style)
        parts[0][column].set_title(f"{size:,} replicas", fontsize=10)
        parts[1][column].set_yscale("log")
        parts[2][column].set_xlabel("load, % of what caches that miss nothing could serve", fontsize=7)
    for row, label in enumerate(
        ("prompt found in the cache, %", "first token, s: p95, p50 (dots)", "tokens/s a replica")
    ):
        parts[row][0].set_ylabel(label, fontsize=8)
    for axes in parts.flat:
        axes.grid(color="0.9")
        axes.tick_params(labelsize=7)
    handles, labels = parts[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(target, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the time per token on this machine first")
    for name in ("prompt", "cached", "output"):
        parser.add_argument(f"--{name}-seconds", type=float, help=f"core seconds per token: {name}")
    parser.add_argument("--slots", type=int, default=10, help="parallel answers per replica")
    parser.add_argument("--chats", type=int, default=20, help="number of chats per replica")
    parser.add_argument("--replicas", type=int, nargs="+", default=_REPLICAS)
    arguments = parser.parse_args()
    measured = measure() if arguments.measure else json.loads(RESULTS.read_text())["service"]
    given = {name: getattr(arguments, f"{name}_seconds") for name in ("prompt", "cached", "output")}
    service = Service(**{name: measured[name] if value is None else value for name, value in given.items()})
    print(json.dumps(measured), service, sep="\n", flush=True)
    load = Load()
    found = []
    for row in rows(service, load, arguments.slots, arguments.chats, arguments.replicas):
        found.append(row)
        print(row, flush=True)
    print(table(found))
    if not any(given.values()):
        results = {"service": measured, "load": asdict(load), "slots": arguments.slots, "chats": arguments.chats}
        RESULTS.write_text(json.dumps({**results, "rows": found}, indent=1) + "\n")
        draw(found, PICTURE)


if __name__ == "__main__":
    main()
