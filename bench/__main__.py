"""`python -m bench`: starts the servers, measures them in turn, and prints a comparison.

Writes results.json (every single figure) and ratios.png next to this file.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from bench import microseconds
from bench.bandwidth import bytes_per_token, read_bandwidth
from bench.bare import bare_loop
from bench.client import BenchError
from bench.machine import machine
from bench.others import MOST, undisturbed
from bench.report import draw, medians, shown, table
from bench.rows import QUICK, Load, Measures, Scenario, rows, scenarios, warm_up
from bench.servers import ROOT, SERVERS, Setup, running
from ggserve.hub.default import default_model, packaged_model
from ggserve.machine import usable_cores

BARE = "bare"
DEFAULT_SERVERS = ("ggserve", "llama-server", "llama-cpp-python", "naive", BARE)
NATIVE_SERVERS = ("ggserve-native", "native-llama-server")  # if LLAMA_SERVER is set
ONE_ROUND = ("naive",)  # slow, and never close: one round is enough
CONTEXT = 2048  # tokens per slot
IDLE = 10.0  # per cent of the processor's time that other programs may use while we measure

Measure = Callable[[Scenario, str], Measures]  # of a scenario, with a seed for its prompts

RESULTS = Path(__file__).parent / "results.json"
PICTURE = Path(__file__).parent / "ratios.png"


class Benchmark:
    """The figures so far, by server and row."""

    def __init__(self, setup: Setup, load: Load, *, quick: bool) -> None:
        self._setup = setup
        self._load = load
        self._quick = quick
        self._started = time.monotonic()
        self.figures: dict[str, dict[str, list[float]]] = {}
        self.notes: list[str] = []

    def round(self, number: int, servers: Sequence[str], chosen: Sequence[Scenario]) -> None:
        """Measure every server in every scenario. A failure becomes a note, and the rest continues.

        The speed of a shared machine changes from minute to minute. So all servers run at once, and take turns at each
        scenario, every time in another order.
        """
        jobs = [
            (scenario, f"{scenario.name} {number}.{index}")
            for index, scenario in enumerate(chosen)
            if number == 0 or not scenario.once
        ]
        for scenario, seed in (job for job in jobs if job[0].alone):
            for name in (name for name in servers if name != BARE):
                with self.noting(name), self._subject(name, scenario.slots, seed) as measure:
                    self._run(name, measure, scenario, seed)
        together = [job for job in jobs if not job[0].alone]
        for slots, group in itertools.groupby(together, lambda job: job[0].slots):
            with self.noting(f"servers with {slots} slots"), ExitStack() as stack:
                subjects: list[tuple[str, Measure]] = []
                for name in servers:
                    with self.noting(name):
                        subjects.append((name, stack.enter_context(self._subject(name, slots, f"{number}"))))
                for scenario, seed in group:
                    for name, measure in subjects:
                        self._run(name, measure, scenario, seed)
                    subjects = subjects[1:] + subjects[:1]

    @contextmanager
    def _subject(self, name: str, slots: int, seed: str) -> Iterator[Measure]:
        """Start a server, or the bare loop; yield the function that measures a scenario on it."""
        if name == BARE:
            with bare_loop(self._setup, quick=self._quick) as loop:
                yield lambda scenario, seed: loop(scenario.name, seed)
            return
        with running(SERVERS[name](self._setup, slots), self._setup) as server:
            asyncio.run(warm_up(server, self._load, seed))
            yield lambda scenario, seed: asyncio.run(scenario.run(server, self._load, seed))

    def _run(self, name: str, measure: Measure, scenario: Scenario, seed: str) -> None:
        _say(f"{time.monotonic() - self._started:4.0f} s  {seed}, {name}")
        with self.noting(f"{name}, {scenario.name}"):
            measures, others = undisturbed(lambda attempt: measure(scenario, f"{seed}, {attempt}" if attempt else seed))
            if others > MOST:
                self.notes.append(f"{name}, {scenario.name}: measured while other programs used {others:.1f} cores.")
            self._add(name, measures)

    def _add(self, server: str, measures: Measures) -> None:
        own = self.figures.setdefault(server, {})
        for row, tries in measures.items():
            own.setdefault(row, []).extend(tries)

    @contextmanager
    def noting(self, who: str) -> Iterator[None]:
        """Turn a BenchError in this block into a note."""
        try:
            yield
        except BenchError as error:
            note = f"{who}: {error}"
            if note not in self.notes:
                self.notes.append(note)
                _say(note)


def find_setup(threads: int, model: Path | None = None) -> Setup:
    """Return a model file, or the default model as published and as converted for ctransformers. Raises BenchError."""
    original, converted = (model, model) if model else (packaged_model(), default_model(ROOT / "models"))
    if original is None or converted is None:
        raise BenchError("the default model is not installed: use `make bench`")
    for path in (original, converted):
        path.read_bytes()  # into the page cache, so that the first server to start is no slower than the others
    return Setup(original, converted, threads, CONTEXT)


def limit(setup: Setup) -> dict[str, float]:
    """Print the limit that memory bandwidth sets."""
    bandwidth, weights = read_bandwidth(setup.threads), bytes_per_token(setup.converted)
    return {"bytes_per_second": bandwidth, "bytes_per_token": weights, "tokens_per_second": bandwidth / weights}


def limit_text(found: dict[str, float], decode_rate: float | None) -> str:
    text = (
        f"Memory is read at {found['bytes_per_second'] / 1e9:.1f} GB/s, and a token needs "
        f"{found['bytes_per_token'] / 1e6:.1f} MB of weights: "
        f"no loop decodes faster than {shown(found['tokens_per_second'], 'tokens/s')}"
    )
    return text + ("." if decode_rate is None else f"; ggserve is at {decode_rate / found['tokens_per_second']:.0%}.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [row.name for row in scenarios(Load())]
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of starts of each server (default: 3)")
    parser.add_argument("--quick", action="store_true", help="run one small round as a smoke test")
    parser.add_argument(
        "--only", action="append", choices=list(dict.fromkeys(names)), help="can be given several times"
    )
    parser.add_argument(
        "--servers",
        type=lambda text: text.split(","),
        default=[*DEFAULT_SERVERS, *(NATIVE_SERVERS if os.environ.get("LLAMA_SERVER") else ())],
        help=f"comma-separated: {', '.join((*SERVERS, BARE))} (default: {','.join(DEFAULT_SERVERS)}, "
        f"with LLAMA_SERVER set {','.join(NATIVE_SERVERS)} too)",
    )
    parser.add_argument("--model", type=Path, help="a GGUF file to measure (default: the default model)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="number of compute threads (default: usable cores)"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare only with another checkout")
    options = parser.parse_args(arguments)
    if options.against:
        options.servers = ["ggserve", "other-checkout"]
    unknown = [name for name in options.servers if name not in (*SERVERS, BARE)]
    if unknown:
        parser.error(f"no such server: {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 1 if a requested server was not measured."""
    options = parse(arguments)
    load = QUICK if options.quick else Load()
    chosen = [scenario for scenario in scenarios(load) if not options.only or scenario.name in options.only]
    try:
        setup = replace(find_setup(options.threads, options.model), other=options.against and options.against.resolve())
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    benchmark = Benchmark(setup, load, quick=options.quick)
    if (busy := psutil.cpu_percent(interval=2)) > IDLE:
        benchmark.notes.append(f"The machine was {busy:.0f}% busy before the start: the figures are unreliable.")
    servers = []
    for name in options.servers:
        with benchmark.noting(f"{name} is skipped"):
            if name != BARE:
                SERVERS[name](setup, 1)
            servers.append(name)
    _say("memory bandwidth, and the microseconds of a token")
    bandwidth = limit(setup)
    costs = [] if options.model else microseconds.measure(setup.converted, setup.threads)
    whole = not (options.quick or options.only or options.against or options.model)
    try:
        for number in range(1 if options.quick else options.rounds):
            benchmark.round(number, [name for name in servers if number == 0 or name not in ONE_ROUND], chosen)
    except KeyboardInterrupt:
        benchmark.notes.append("Interrupted: these are the figures so far, and no file was written.")
        whole = False
    values = {server: medians(benchmark.figures)[server] for server in servers if server in benchmark.figures}
    heading = f"{date.today().isoformat()}, {machine()}, {setup.original.name}, {setup.threads} threads"
    print(f"\n{heading}\n\n{table(rows(load), values)}\n")
    print("Medians. The last columns are ratios; above 1 the first server is faster, sooner or smaller.")
    print(f"{limit_text(bandwidth, values.get('ggserve', {}).get('decode'))}\n")
    if costs:
        print(f"{microseconds.table(costs)}\n")
    for note in benchmark.notes:
        print(f"Note: {note}")
    if whole:
        results: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "model": setup.original.name,
            "threads": setup.threads,
            "context": setup.context,
            "load": asdict(load),
            "figures": benchmark.figures,
            "medians": values,
            "memory": bandwidth,
            "microseconds": [asdict(cost) for cost in costs],
            "notes": benchmark.notes,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        draw(rows(load), values, heading, PICTURE)
        print(f"Wrote {RESULTS.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}.")
    return 0 if all(server in values for server in servers) else 1


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
