"""Evaluations: one layout of ``eval.json`` and one table, whatever was evaluated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pcm_policy.measure.tables import Table

Report = Mapping[str, Any]
"""What ``eval.json`` holds."""


def evaluation(
    policy: str,
    task: str,
    solver: Mapping[str, Any],
    outcome: Mapping[str, Any],
    made: Mapping[str, Any],
    incomplete: str | None = None,
) -> dict[str, Any]:
    """Return what ``eval.json`` holds.

    Args:
        policy: as the command names it.
        task: its name.
        solver: ``label`` and flat settings.
        outcome: score, success and episodes, as a result's ``to_json`` gives them.
        made: how it was made: conditions, times, and the controller's part where it took part.
        incomplete: why episodes are missing.
    """
    outcome = dict(outcome)
    episodes = outcome.pop("episodes")
    return {
        "policy": policy,
        "task": task,
        "solver": dict(solver),
        **({} if incomplete is None else {"incomplete": incomplete}),
        **outcome,
        **made,
        "episodes": episodes,
    }


def _interval(found: Mapping[str, Any], key: str) -> str:
    low, high = found["ci95"]
    return f"{found[key]:.3f} [{low:.3f}, {high:.3f}]"


COLUMNS: dict[str, Callable[[Report], str]] = {
    "solver": lambda r: str(r["solver"]["label"]),
    "mode": lambda r: str(r["control"]["mode"]),
    "score [95 %]": lambda r: _interval(r["score"], "mean"),
    "success [95 %]": lambda r: _interval(r["success"], "rate"),
    "rounds": lambda r: f"{r['rounds']:.1f}",
    "NFE": lambda r: f"{r['nfe']:.1f}",
    "p50 / p99 ms": lambda r: f"{r['latency_ms']['p50']:.2f} / {r['latency_ms']['p99']:.2f}",
    "misses": lambda r: f"{r['miss_rate']:.1%}",
    "seam jump": lambda r: f"{r['seams']['jump']:.2f}",
    "mode switches": lambda r: f"{r['seams']['mode_switches']:.1%}",
}
"""Columns of the table; a missing entry of a report leaves its cell empty."""


def evaluations(reports: Sequence[Report], names: Sequence[str] = ()) -> Table:
    """Return head and rows, one line a report.

    Args:
        reports: what ``eval.json`` holds. Columns that none of them fills are left out: those of
            the controller are there where it took part. The seam jump is in units of the actions.
        names: for the first column, in place of the solvers' labels.
    """
    cells = {name: [_cell(fill, report) for report in reports] for name, fill in COLUMNS.items()}
    if names:
        cells["solver"] = list(names)
    shown = {name: column for name, column in cells.items() if any(column)}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def _cell(fill: Callable[[Report], str], report: Report) -> str:
    try:
        return fill(report)
    except (KeyError, TypeError):  # not measured
        return ""
