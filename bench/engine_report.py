"""Turns figures of both engines into tables, and into the rule of ggserve/engines/speed.py."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median

from bench.one_engine import ANSWER, MANY, PROMPT
from bench.report import MARKERS, aligned
from bench.synthetic import MIXES
from ggserve.engines.speed import Gain, measured_gain

ENGINES = ("ctransformers", "llama.cpp")
DEFAULT = "default"  # the default model, as converted for ctransformers and as published
SMALL = ("0.13B",)  # sizes that the rule calls small
ROWS = ("mix", "clients-4")  # rows that the rule uses: seconds for one answer, and for four

Tries = dict[str, list[float]]  # by row
Figures = Mapping[str, Mapping[str, Mapping[str, Tries]]]  # by size, mix and engine


def table(figures: Figures, limits: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return Markdown for each size: medians of ctransformers and llama.cpp, and their ratio (above 1: llama.cpp is
    better). `limits`: the maximum of tokens/s for a decode loop, by size and mix."""
    many = f"of {PROMPT // MANY}+{ANSWER // MANY}, s"
    columns = {
        "prompt": f"prompt of {PROMPT}, s",
        "decode": "decode, tokens/s",
        "mix": f"{PROMPT}+{ANSWER}, s",
        "clients-4": f"4 {many}",
        "clients-8": f"8 {many}",
        "memory": "memory, MB",
    }
    blocks = []
    for size, mixes in figures.items():
        lines = [[size, *columns.values(), *(["limit of decode, tokens/s"] if limits else [])]]
        for mix in sorted(mixes, key=[DEFAULT, *MIXES, *mixes].index):
            old, new = (_medians(mixes[mix][engine]) for engine in ENGINES)
            line = [mix, *(_cell(row, old.get(row), new.get(row)) for row in columns)]
            if limits:
                limit = limits.get(size, {}).get(mix)
                line.append(f"{limit:.0f}" if limit else "")
            lines.append(line)
        blocks.append("\n".join(aligned(lines)))
    return "\n\n".join(blocks)


def draw(figures: Figures, title: str, target: Path) -> None:
    """Draw how many times as fast llama.cpp is with each file: a panel for each of ROWS, a mark for each size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, color="0.3")
    named = {"mix": "one answer", "clients-4": "four answers at once"}
    mixes = [mix for mix in MIXES if any(mix in measured for measured in figures.values())]
    for axes, row in zip(figure.subplots(1, len(ROWS), sharex=True, sharey=True), ROWS, strict=True):
        axes.axvline(1.0, color="0.25", linewidth=1.2)
        for (marker, colour), (size, measured) in zip(MARKERS, figures.items(), strict=False):
            points = [(_ratio(measured[mix], row), line) for line, mix in enumerate(mixes) if mix in measured]
            axes.plot(*zip(*points, strict=True), marker, color=colour, label=size, linestyle="none")
        axes.set_yticks(range(len(mixes)), mixes)
        axes.set_ylim(len(mixes) - 0.5, -0.5)
        axes.set_xlabel(f"{named[row]}: right of 1 llama.cpp is faster")
        axes.grid(axis="x", color="0.88", linewidth=0.8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(target, dpi=110)


def _medians(tries: Tries) -> dict[str, float]:
    return {row: median(values) for row, values in tries.items()}


def _cell(row: str, old: float | None, new: float | None) -> str:
    if old is None or new is None:  # memory needs two rounds
        return ""
    ratio = new / old if row == "decode" else old / new
    digits = 0 if row == "memory" else 1 if row == "decode" else 2
    return f"{old:.{digits}f} / {new:.{digits}f} = {ratio:.2f}"


def gains_measured(machines: Sequence[Figures]) -> dict[str, list[list[float]]]:
    """Return the values of speed.GAINS: by type, for small and larger files, alone and four at a time. All machines
    have the same weight."""
    found = {}
    for mix, (kind, _, _) in MIXES.items():
        sizes: list[list[list[Mapping[str, Tries]]]] = [[], []]  # by machine, the figures of each size
        for figures in machines:
            for large, some in enumerate(sizes):
                measured = [
                    mixes[mix] for size, mixes in figures.items() if mix in mixes and (size not in SMALL) == large
                ]
                if measured:
                    some.append(measured)
        if all(sizes):
            found[kind.name] = [[round(_mean(some, row), 2) for row in ROWS] for some in sizes]
    return found


def _mean(machines: Sequence[Sequence[Mapping[str, Tries]]], row: str) -> float:
    return geometric_mean(geometric_mean(_ratio(engines, row) for engines in sizes) for sizes in machines)


def _ratio(engines: Mapping[str, Tries], row: str) -> float:
    old, new = (median(engines[engine][row]) for engine in ENGINES)
    return old / new


def gains(machines: Sequence[Figures]) -> str:
    """Return the same as Python source, for speed.py."""
    lines = [
        f'    "{kind}": ({", ".join(str(tuple(some)) for some in both)}),'
        for kind, both in gains_measured(machines).items()
    ]
    return "\n".join(["GAINS = {", *lines, "}"])


def rule_table(figures: Figures) -> str:
    """Return the choice of `ENGINE=auto` for each file, and its speed relative to the better engine."""
    lines = [["file", "auto alone", "speed / best", "auto, PARALLEL=4", "speed / best"]]
    worst = 1.0
    for name, cells in _choices(figures):
        lines.append([name, *(text for chosen, share in cells for text in (chosen, f"{share:.2f}"))])
        worst = min(worst, *(share for _, share in cells))
    return "\n".join([*aligned(lines), "", f"The least: {worst:.2f}."])


def _choices(figures: Figures) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    for size, mixes in figures.items():
        for mix, engines in mixes.items():
            if size == DEFAULT:
                continue
            cells = []
            for slots, row in zip((1, 4), ROWS, strict=True):
                gain: Gain = measured_gain(MIXES[mix][0].name, size not in SMALL, slots)
                ratio = _ratio(engines, row)
                share = min(1.0, ratio) if gain.counts else min(1.0, 1 / ratio)
                cells.append((ENGINES[gain.counts], share))
            yield f"{size} {mix}", cells
