"""The table of routes, made of their reports."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.routes.plan import BASELINE, SOLVERS

TIMED = ("generate", "train", "rollouts", "distil")
Report = dict[str, Any]


def _spent(step: Report) -> str:
    if "seconds" in step:
        return f"{step['seconds'] / 60:.1f} min"
    return "(shared)" if "shared" in step else "(resumed)"


def _success(step: Report) -> str:
    found = step["result"]["success"]
    low, high = found["ci95"]
    return f"{found['rate']:.2f} [{low:.2f}, {high:.2f}]"


def _solve(step: Report) -> str:
    return f"{step['result']['latency_ms']['p50']:.1f} ms"


def _conditions(step: Report) -> str:
    return f"{len(step['result']['episodes'])}, {step['result']['hardware']['device']}"


def _cell(report: Report, step: str, shown: Callable[[Report], str]) -> str:
    """Return a cell; a success over other episodes than the base's says how many."""
    steps, (base, *_) = report["steps"], SOLVERS
    if step not in steps:
        return ""
    text = shown(steps[step])
    if shown is _success and base in steps:
        count, usual = (len(steps[name]["result"]["episodes"]) for name in (step, base))
        text += "" if count == usual else f" of {count}"
    return text


def rows(reports: Sequence[Report], *, solves: bool = True) -> list[list[str]]:
    """Return the table: a column for every route; times, then successes, then times of a solve.

    A cell is empty where a route lacks the step; a step that no route has makes no row.

    Args:
        reports: of the routes.
        solves: whether times of a solve are shown, which other work on the machine lengthens.
    """
    base, *_ = SOLVERS
    lines: list[tuple[str, str, Callable[[Report], str]]] = [
        *((name, name, _spent) for name in TIMED),
        ("episodes, machine", base, _conditions),
        *((name, name, _success) for name in (*SOLVERS, BASELINE)),
        *((f"a solve: {name}", name, _solve) for name in SOLVERS if solves),
    ]
    return [
        [title, *(_cell(r, step, shown) for r in reports)]
        for title, step, shown in lines
        if any(step in r["steps"] for r in reports)
    ]
