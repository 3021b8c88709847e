"""`python -m bench.engines`: the faster engine for every quantization and size, and the result of `ENGINE=auto`.

Makes LLaMA-shaped files with random weights in a temporary folder, measures both engines in turns, and updates
engines.json next to this file with each measured combination. `--table` only prints the existing figures;
`--results bench/engines-NAME.json` keeps another machine's figures apart. The rule uses those of all machines.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.bandwidth import bytes_per_token, read_bandwidth
from bench.client import BenchError
from bench.engine_report import DEFAULT, ENGINES, Figures, Tries, draw, gains, rule_table, table
from bench.machine import machine, undisturbed
from bench.one_engine import SLOTS, one_engine
from bench.one_engine import Figures as Measured
from bench.servers import ROOT
from bench.synthetic import MIXES, Shape, write_model
from ggserve.hub.default import default_model, packaged_model
from ggserve.machine import usable_cores

SIZES = {
    "0.13B": Shape(layers=12, width=768, feed_forward=2048, heads=12, kv_heads=12),
    "0.4B": Shape(layers=6, width=2048, feed_forward=5632, heads=32, kv_heads=4),  # of TinyLlama's 22 layers
    "1.1B": Shape(layers=22, width=2048, feed_forward=5632, heads=32, kv_heads=4),
}
MEASUREMENTS = ("alone", "clients-4", "clients-8")
RESULTS = Path(__file__).parent / "engines.json"


@contextmanager
def model_files(size: str, mix: str) -> Iterator[dict[str, Path]]:
    """Return the file to run, by engine. Raises BenchError."""
    if size == DEFAULT:
        original, converted = packaged_model(), default_model(ROOT / "models")
        if original is None or converted is None:
            raise BenchError("the default model is not installed: use `make bench`")
        yield {"ctransformers": converted, "llama.cpp": original}
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / f"{mix}.gguf"
        write_model(path, SIZES[size], mix)
        yield dict.fromkeys(ENGINES, path)


def measure(paths: Mapping[str, Path], rounds: int, threads: int) -> dict[str, Tries]:
    """Measure each engine with its file. Both stay loaded, and take turns at each measurement."""
    tries: dict[str, Tries] = {engine: {} for engine in ENGINES}

    def note(engine: str, figures: Measured) -> None:
        for row, value in figures.items():
            tries[engine].setdefault(row, []).append(value)

    for number in range(rounds):
        turns = ENGINES if number % 2 == 0 else ENGINES[::-1]
        with ExitStack() as stack:
            loaded = {}
            for engine in turns:
                loaded[engine] = stack.enter_context(one_engine(paths[engine], engine, threads))
                figures = loaded[engine]("memory")
                if len(loaded) == 1:  # the second engine shares the file's pages with the first
                    note(engine, figures)
            for name in MEASUREMENTS:
                for engine in turns:
                    note(engine, undisturbed(partial(loaded[engine], name)))
    return tries


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser("python -m bench.engines", description=__doc__)
    parser.add_argument("--sizes", type=names, default=[DEFAULT, *SIZES], help=f"of {','.join([DEFAULT, *SIZES])}")
    parser.add_argument("--mixes", type=names, default=list(MIXES), help=f"of {','.join(MIXES)}")
    parser.add_argument("--rounds", type=int, default=2, help="number of loads of each engine (default: 2)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="number of compute threads (default: usable cores)"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to update (default: engines.json)")
    options = parser.parse_args(arguments)
    if unknown := {*options.sizes} - {DEFAULT, *SIZES} | {*options.mixes} - {*MIXES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def all_figures() -> list[Figures]:
    """Return the figures of each machine."""
    return [_ordered(json.loads(path.read_text())["figures"]) for path in sorted(RESULTS.parent.glob("engines*.json"))]


def _ordered(figures: Mapping[str, Any]) -> Figures:
    return {size: figures[size] for size in (DEFAULT, *SIZES) if size in figures}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    figures, weights = results.setdefault("figures", {}), results.setdefault("weights", {})
    if not options.table:
        for size in options.sizes:
            for mix in [DEFAULT] if size == DEFAULT else options.mixes:
                print(f"{size} {mix}", file=sys.stderr, flush=True)
                with model_files(size, mix) as paths:
                    weights.setdefault(size, {})[mix] = bytes_per_token(paths["llama.cpp"])
                    measured = measure(paths, options.rounds, options.threads)
                figures.setdefault(size, {})[mix] = measured
                results |= {"machine": machine(), "threads": options.threads, "slots": SLOTS}
                results["bandwidth"] = max(results.get("bandwidth", 0), read_bandwidth(options.threads))
                options.results.write_text(json.dumps(results, indent=1) + "\n")
    ordered = _ordered(figures)
    limits = {
        size: {mix: results["bandwidth"] / count for mix, count in mixes.items()} for size, mixes in weights.items()
    }
    print(f"{table(ordered, limits)}\n\n{rule_table(ordered)}\n\n{gains(all_figures())}")
    draw(
        {size: figures[size] for size in SIZES if size in figures},
        results["machine"],
        options.results.with_suffix(".png"),
    )


if __name__ == "__main__":
    main()
