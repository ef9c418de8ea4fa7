"""Table and picture of a comparison, made from its JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcm_policy.measure.pictures import new_figure, save_figure
from pcm_policy.measure.tables import table

HEAD = [
    "policy",
    "B",
    "package",
    "mode",
    "solver",
    "calls",
    "rounds",
    "NFE",
    "p50 ms",
    "p99 ms",
    "max error",
]
HEAD += ["x floor", "MiB"]
COLOURS = {"pcm_policy": "tab:green", "diffusers": "tab:orange", "lerobot": "tab:purple"}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print some rows."""
    cells = [
        [
            row["policy"],
            str(row["batch"]),
            row["package"],
            row["mode"],
            row["solver"],
            str(row["calls"]),
            f"{row['rounds']:.1f}",
            f"{row['nfe']:.1f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['max_abs_error']:.1e}",
            f"{row['times_floor']:.1f}",
            "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.1f}",
        ]
        for row in rows
    ]
    print(table(HEAD, cells), flush=True)


def write_picture(file: Path, target: Path) -> None:
    """Draw the picture of a result file."""
    draw(json.loads(file.read_text()), target)


def draw(report: Mapping[str, Any], target: Path) -> None:
    """Draw every row's time (p50, to p99) with its floor, one panel a policy and batch."""
    from matplotlib import ticker

    panels: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        panels.setdefault((row["policy"], row["batch"]), []).append(row)
    longest = max(len(rows) for rows in panels.values())
    figure = new_figure(6.5 * len(panels), 0.24 * longest + 2)
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, ((policy, batch), rows) in zip(axes[0], panels.items(), strict=True):
        p50 = [row["p50_ms"] for row in rows]
        spread = [[0.0] * len(rows), [row["p99_ms"] - row["p50_ms"] for row in rows]]
        colours = [COLOURS[row["package"]] for row in rows]
        axis.barh(range(len(rows)), p50, xerr=spread, color=colours, ecolor="0.4")
        floors = [row["floor_ms"] for row in rows]
        axis.plot(floors, range(len(rows)), "k|", ms=7, label="floor")
        axis.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=7)
        axis.set_ylim(longest - 0.4, -0.6)  # bars of all panels are equally thick
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel("time per call [ms], p50 (bar) to p99 (line)")
        axis.set_title(f"{policy}, weights {rows[0]['weights']}, batch {batch}", fontsize=9)
        axis.legend(fontsize=7)
    machine = report["hardware"]
    figure.suptitle(
        f"{machine['device']}, threads: {machine['threads']}, {report['dtype']}, "
        f"torch {machine['torch']}, commit {report['commit']}; e: largest error to the reference",
        fontsize=9,
    )
    save_figure(figure, target, dpi=100)


def _name(row: Mapping[str, Any]) -> str:
    mode = "" if row["mode"] == "eager" else f" {row['mode']}"
    return f"{row['package']}{mode}: {row['solver']}  e={row['max_abs_error']:.0e}"
