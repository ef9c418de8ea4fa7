"""Pictures of measurements; matplotlib is imported when one is drawn."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pcm_policy.files import write_file
from pcm_policy.measure.bench import Bench
from pcm_policy.measure.conditions import said

SOLVER_COLOURS = {
    "sequential": "0.6",
    "picard": "tab:blue",
    "coarse": "tab:olive",
    "anderson": "tab:cyan",
    "newton": "tab:purple",
    "paradigms": "tab:orange",
    "pcm": "tab:green",
    "adaptive": "limegreen",
}
OTHER = "0.3"
"""Colour of a method that has none of its own."""
LINES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches; it needs no display and leaves no state behind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save_figure(figure: Any, path: Path, dpi: int = 110) -> None:
    """Lay a figure out and write it; the file is complete or not there."""
    figure.tight_layout()
    write_file(path, lambda scratch: figure.savefig(scratch, dpi=dpi))


def success_picture(reports: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Draw success, with its interval, against time per chunk.

    Args:
        reports: what ``eval.json`` holds, with times.
        names: what they are called in the legend.
        path: of the picture.
    """
    from matplotlib import ticker

    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    markers = islice(cycle("osD^vP"), len(names))
    for report, name, marker in zip(reports, names, markers, strict=True):
        rate, (low, high) = report["success"]["rate"], report["success"]["ci95"]
        ms, method = report["latency_ms"]["p50"], report["solver"]["method"]
        interval = [[max(0.0, rate - low)], [max(0.0, high - rate)]]
        look = {"fmt": marker, "ms": 9, "capsize": 4, "color": SOLVER_COLOURS.get(method, OTHER)}
        shown = f"{name}: {rate:.2f} in {ms:.1f} ms"
        axes.errorbar(ms, rate, yerr=interval, label=shown, **look)
    axes.legend(loc="lower center", fontsize=10)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("time per chunk, median [ms]")
    axes.set_ylabel("success, with its 95 % interval")
    axes.set_title(f"{len(reports[0]['episodes'])} episodes each\n{said(reports[0])}", fontsize=10)
    save_figure(figure, path)


def bench_picture(bench: Bench, path: Path) -> None:
    """Draw latency (p50 to p99) of all solvers, and error against rounds of the iterations."""
    figure = new_figure(14, 0.28 * len(bench.rows) + 2)
    left, right = figure.subplots(1, 2)
    _latencies(bench, left)
    _errors(bench, right)
    save_figure(figure, path)


def _latencies(bench: Bench, axes: Any) -> None:
    from matplotlib import ticker

    rows = bench.rows
    p50, p99 = ([bench.times_ms[row][name] for row in rows] for name in ("p50", "p99"))
    spread = [[0.0] * len(rows), [slow - usual for usual, slow in zip(p50, p99, strict=True)]]
    colours = [SOLVER_COLOURS.get(row.method, OTHER) for row in rows]
    axes.barh(range(len(rows)), p50, xerr=spread, color=colours, ecolor="0.4")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("time per chunk [ms], p50 (bar) to p99 (line)")
    axes.set_title(f"Latency, batch 1\n{said(bench.facts)}", fontsize=10)


def _errors(bench: Bench, axes: Any) -> None:
    samplers = list(dict.fromkeys(trace.row.reference for trace in bench.traces))
    for trace in bench.traces:
        error = [max(e, 1e-8) for e in trace.mean_error_by_round]
        axes.semilogy(
            range(1, len(error) + 1),
            error,
            LINES[samplers.index(trace.row.reference) % len(LINES)],
            color=SOLVER_COLOURS.get(trace.row.method, OTHER),
            label=f"{trace.label}, {trace.row.reference.label}",
        )
    axes.axhline(bench.facts["error"], color="0.7", lw=0.8)
    axes.set_ylim(1e-7, None)
    axes.set_xlabel("rounds")
    axes.set_ylabel("largest action error, mean over observations")
    axes.set_title("Distance to the sequential chunk")
    if bench.traces:
        axes.legend(fontsize=8)
