"""docs/vla.md's tables from what ``benchmarks/lerobot/outside.py`` measured."""

from typing import Any

SOLVERS = ("picard", "anderson", "newton", "coarse")
ROUNDS_HEAD = ["policy", "its own calls", *SOLVERS]
SPEED_HEAD = ["LeRobot's loop", "in its place", "calls", "NFE", "largest error", "RMS error"]
TIMES_HEAD = ["loop ms, LeRobot / here", "faster", "whole call ms", "faster"]
SPEED_HEAD += TIMES_HEAD
GOOD = 1e-2


def rounds_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a line for each policy: rounds to 1e-2 / to 1e-3 / until certified to 1e-3."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        near = [str(row["rounds_to"][e] or "> 16") for e in ("0.01", "0.001")]
        cell = " / ".join([*near, str(row["certified_1e-3"])])
        found.setdefault((row["policy"], row["calls"]), {})[row["solver"]] = cell
    return [[name, str(n), *(cells[s] for s in SOLVERS)] for (name, n), cells in found.items()]


def few(row: dict[str, Any]) -> bool:
    """Whether a row is a sampler of fewer steps, not rounds of the policy's own."""
    return bool(row["rounds"] == row["nfe"])


def speed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, of rounds and of few-step samplers, the fastest whose largest error is at most 1e-2.

    Where there is none, the nearest stands in its place.
    """
    found = []
    for name in dict.fromkeys(row["policy"] for row in rows):
        for kind in (False, True):
            some = [row for row in rows if row["policy"] == name and few(row) == kind]
            good = [row for row in some if row["largest"] <= GOOD]
            if good:
                found.append(max(good, key=lambda row: row["faster"]))
            elif some:
                found.append(min(some, key=lambda row: row["largest"]))
    return found


def times(row: dict[str, Any]) -> list[str]:
    """Return the cells of :data:`TIMES_HEAD`."""
    return [
        f"{row['lerobot_loop_ms']:.0f} / {row['our_loop_ms']:.1f}",
        f"{row['loop_faster']:.1f}x",
        f"{row['lerobot_ms']:.0f} / {row['ours_ms']:.1f}",
        f"{row['faster']:.1f}x",
    ]


def speed_cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table of times."""
    return [
        row["policy"],
        row["solver"],
        str(row["rounds"]),
        str(row["nfe"]),
        f"{row['largest']:.1e}",
        f"{row['rms']:.1e}",
        *times(row),
    ]
