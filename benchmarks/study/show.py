"""The study's tables for the terminal and its two pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.ratios import HEAD as RATIO_HEAD
from benchmarks.study.ratios import Needed, lines
from benchmarks.study.rows import PARALLEL, SETTLING
from pcm_policy.measure.pictures import SOLVER_COLOURS, new_figure, save_figure

HEAD = [
    "solver",
    "RMSE",
    "p95",
    "score [95 %]",
    "success [95 %]",
    "score - base [95 %]",
    "success - base [95 %]",
    "p50 ms",
    "p95 ms",
]
COLOURS = {family: SOLVER_COLOURS[method] for family, method in PARALLEL.items()}
COLOURS |= {SETTLING: "tab:cyan", "DDIM": "0.5", "DPM-Solver++": "0.2", "consistency": "tab:red"}
COLOURS |= {"EPD": "tab:brown", "STEP": "gold", "high-noise": "tab:pink", "drifting": "k"}


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format one row of the report."""
    found = [row["name"], f"{row['rmse']:.4f}", f"{row['rmse_p95']:.4f}"]
    for name in ("score", "success"):
        low, high = row[name]["ci95"]
        found.append(f"{row[name]['mean']:.3f} [{low:.3f}, {high:.3f}]")
    found += [gap(row[name]) for name in ("score", "success")]
    return [*found, f"{row['ms']['p50']:.2f}", f"{row['ms']['p95']:.2f}"]


def gap(found: Mapping[str, Any]) -> str:
    """Format a paired difference and its interval."""
    low, high = found["difference_ci95"]
    return f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def tables(report: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Return the report's tables, head and rows."""
    equal = [
        line
        for title, found in report["equal"].items()
        for line in lines(title, {f: Needed(**n) for f, n in found.items()})
    ]
    paired = [[p["pair"], gap(p["score"]), gap(p["success"])] for p in report["pairs"]]
    certified = [
        [c["solver"], f"{c['rounds']:.2f}", str(c["worst_rounds"]), f"{c['worst_error']:.1e}"]
        for c in report["certified"]
    ]
    kinds = [
        [
            row["observations"],
            *(f"{x:.4f}" for x in row["rmse"].values()),
            f"{row['growth_2']:.2f}",
            f"{row['certified_rounds']:.2f}",
            f"{row['worst_error']:.1e}",
        ]
        for row in report["perturbed"]
    ]
    settled = [
        [
            row["name"],
            f"{row['solver']['settle']:g}",
            str(row["solver"]["rounds"]),
            f"{row['episode_rounds']:.2f}",
            f"{row['ms']['mean']:.2f}",
        ]
        for row in report["rows"]
        if row["family"] == SETTLING
    ]
    until = ["until certified", "rounds", "most", "largest error"]
    rmse_head = [f"RMSE {r}" for r in report["perturbed"][0]["rmse"]]
    seen = ["observations", *rmse_head, "growth at 2", "until certified", "largest error"]
    return [
        (HEAD, [cells(row) for row in report["rows"]]),
        (RATIO_HEAD, equal),
        (["difference", "score [95 %]", "success [95 %]"], paired),
        (["settling", "solver.settle", "most rounds", "mean in episodes", "mean ms"], settled),
        (until, certified),
        (seen, kinds),
    ]


def pictures(report: Mapping[str, Any], folder: Path) -> None:
    """Draw error against rounds and score against rounds, one file each."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        families.setdefault(row["family"], []).append(row)
    error, score = new_figure(7, 4.5), new_figure(7, 4.5)
    axes, below = error.subplots(), score.subplots()
    for family, trace in report["rmse_by_round"].items():
        kept = [max(value, 1e-7) for value in trace]
        axes.semilogy(range(1, len(kept) + 1), kept, color=COLOURS[family], label=family)
    for family, rows in families.items():
        if family in COLOURS and family not in report["rmse_by_round"]:
            x, y = zip(*((row["rounds"], row["rmse"]) for row in rows), strict=True)
            axes.semilogy(x, y, "o--", ms=4, color=COLOURS[family], label=family)
    axes.set_xlim(0.5, max(report["rounds"]) + 0.5)
    axes.set_ylim(1e-5, None)
    axes.set_ylabel(f"mean RMSE to the {report['base']} chunk, actions in [-1, 1]")
    base = families["base"][0]["score"]
    below.axhspan(*base["ci95"], color="0.9", label=f"base, {report['base']}")
    below.axhline(base["mean"], color="0.7", lw=0.8)
    for family, rows in families.items():
        if family not in COLOURS:
            continue
        x = [row["rounds"] for row in rows]
        y = [row["score"]["mean"] for row in rows]
        ends = [row["score"]["ci95"] for row in rows]
        spread = [
            [mean - low for mean, (low, _) in zip(y, ends, strict=True)],
            [high - mean for mean, (_, high) in zip(y, ends, strict=True)],
        ]
        below.errorbar(x, y, spread, fmt="o-", ms=4, capsize=2, color=COLOURS[family], label=family)
    below.set_ylabel(f"score, {report['episodes']} episodes")
    for figure, plot, name in ((error, axes, "error"), (score, below, "score")):
        plot.set_xlabel("network rounds")
        plot.set_xticks(report["rounds"])
        plot.legend(fontsize=8)
        save_figure(figure, folder / f"{name}.png")
