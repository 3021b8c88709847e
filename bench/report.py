"""Turns figures into medians, ratios, a Markdown table and a picture. Knows nothing about servers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.rows import Row

Figures = Mapping[str, Mapping[str, Sequence[float]]]  # by server and row name, one figure per try
Medians = Mapping[str, Mapping[str, float]]  # by server and row name

OWN = "ggserve"
COMPARED = (  # the last columns of the table: a server of this project and the one that it is compared with
    (OWN, "llama-server"),
    (OWN, "bare"),
    ("ggserve-llama.cpp", "llama-server"),
    ("ggserve-native", "native-llama-server"),
)
MARKERS = (("o", "#0072b2"), ("D", "#d55e00"), ("s", "#009e73"), ("^", "#cc79a7"), ("v", "#e69f00"))
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """Return the median of each row's tries."""
    return {
        server: {row: median(tries) for row, tries in measured.items() if tries} for server, measured in figures.items()
    }


def ratio(row: Row, own: float, peer: float) -> float:
    """Return how many times better `own` is than `peer`: above 1 is faster, sooner or smaller."""
    return own / peer if row.more_is_better else peer / own


def shown(value: float, unit: str) -> str:
    """Format a figure with its unit, to three digits."""
    if unit == "s" and value < 1:
        return f"{1000 * value:.0f} ms"
    digits = 0 if value >= 100 or unit == "%" else 1 if value >= 10 else 2
    return f"{value:.{digits}f}{'' if unit == '%' else ' '}{unit}"


def table(rows: Sequence[Row], values: Medians) -> str:
    """Return a Markdown table: a line per measured row, a column per server, and ggserve's ratios."""
    servers = list(values)
    pairs = [(own, peer) for own, peer in COMPARED if own in values and peer in values]
    lines = [["", *servers, *(f"{own} vs {peer}" for own, peer in pairs)]]
    for row in rows:
        if not any(row.name in values[server] for server in servers):
            continue
        cells = [shown(values[server][row.name], row.unit) if row.name in values[server] else "" for server in servers]
        lines.append([row.title, *cells, *(_ratio_cell(row, values, own, peer) for own, peer in pairs)])
    return "\n".join(aligned(lines))


def _ratio_cell(row: Row, values: Medians, own: str, peer: str) -> str:
    found = _ratio(row, values, own, peer)
    return "" if found is None else f"{found:.2f}x"


def _ratio(row: Row, values: Medians, own: str, peer: str) -> float | None:
    if row.name not in values[own] or row.name not in values[peer]:
        return None
    return ratio(row, values[own][row.name], values[peer][row.name])


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return cells as a Markdown table that is readable as text too: `left` columns aligned to the left, the others to
    the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def joined(line: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(line[:left], widths[:left], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rules = ["-" * (width + 1) + ("-" if column < left else ":") for column, width in enumerate(widths)]
    return [joined(lines[0]), f"|{'|'.join(rules)}|", *map(joined, lines[1:])]


def draw(rows: Sequence[Row], values: Medians, title: str, target: Path) -> None:
    """Draw ggserve's ratios to every other server, a line per row; to the right of 1 ggserve is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    others = [server for server in values if server != OWN]
    drawn = [row for row in rows if any(_ratio(row, values, OWN, server) is not None for server in others)]
    figure = Figure(figsize=(9, 2 + 0.36 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, color="0.3")
    axes = figure.add_subplot()
    for line in range(0, len(drawn), 2):
        axes.axhspan(line - 0.5, line + 0.5, color="0.96", zorder=0)
    axes.axvline(1.0, color="0.25", linewidth=1.2, zorder=1)
    found = []
    for server, (marker, colour) in zip(others, MARKERS, strict=False):
        points = [(value, line) for line, row in enumerate(drawn) if (value := _ratio(row, values, OWN, server))]
        found += [value for value, _ in points]
        across, down = [value for value, _ in points], [line for _, line in points]
        axes.plot(across, down, marker, color=colour, markersize=8, label=server, linestyle="none", zorder=2)
    axes.set_xscale("log")
    low, high = min(0.5, *found) / 1.15, max(2.0, *found) * 1.15
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(drawn)), [row.title for row in drawn])
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.88", linewidth=0.8, zorder=0.5)
    axes.set_xlabel("how many times better ggserve is than each: right of 1x it is faster, sooner or smaller")
    figure.legend(loc="outside lower center", ncols=len(others), frameon=False)
    figure.savefig(target, dpi=150)
