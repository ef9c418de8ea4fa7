"""The paper's two ratios: rounds and time against sequential and against Picard, at equal quality.

So et al. 2025 report up to 2.71 times less time than sequential sampling and 1.77 times less than
Picard. Here quality is either the mean RMSE to the base chunk, or the closed-loop score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WITHIN = {"score": 0.03, "success": 0.05}


@dataclass(frozen=True)
class Needed:
    """What one family needs for one quality.

    Attributes:
        rounds: network rounds, where they differ on average, or None if it was not reached.
        ms: median time of a chunk at that many rounds.
    """

    rounds: float | None = None
    ms: float | None = None


def first_round(errors: Sequence[float], target: float) -> int | None:
    """Return the 1-based round from which on the errors stay at or below the target."""
    late = max((i for i, error in enumerate(errors) if not error <= target), default=-1)
    return late + 2 if late + 1 < len(errors) else None


def fractional_round(errors: Sequence[float], target: float) -> float | None:
    """Return the same between rounds, by interpolating the logarithm of the error."""
    found = first_round(errors, target)
    if found is None or found == 1:
        return found
    before, after = errors[found - 2], max(errors[found - 1], 1e-12)
    share = math.log(before / target) / math.log(before / after)
    return found - 1 + share


def equal(difference_ci95: Sequence[float], within: float) -> bool:
    """Return whether a paired interval lies within plus or minus ``within``."""
    low, high = difference_ci95
    return low >= -within and high <= within


def at_outcome(rows: Sequence[Mapping[str, Any]], name: str, within: float) -> dict[str, Needed]:
    """Return for every family the fewest rounds whose score or success equals the base's.

    Args:
        rows: of the report, each family's in order of rounds.
        name: ``score`` or ``success``.
        within: equal means that the paired 95 % interval lies within plus or minus this.
    """
    found: dict[str, Needed] = {}
    for row in rows:
        good = row["family"] == "base" or equal(row[name]["difference_ci95"], within)
        if found.get(row["family"], Needed()).rounds is None:
            need = Needed(row["rounds"], row["ms"]["p50"]) if good else Needed()
            found[row["family"]] = need
    return found


def ratios(needed: Mapping[str, Needed], ours: str = "PCM") -> dict[str, dict[str, float | None]]:
    """Return how many times fewer rounds, and how much less time, ours needs than each other."""
    mine = needed[ours]
    found: dict[str, dict[str, float | None]] = {}
    for family, theirs in needed.items():
        rounds = theirs.rounds / mine.rounds if theirs.rounds and mine.rounds else None
        time = theirs.ms / mine.ms if theirs.ms and mine.ms else None
        found[family] = {"rounds": rounds, "time": time}
    return found


def lines(title: str, needed: Mapping[str, Needed], ours: str = "PCM") -> list[list[str]]:
    """Return the cells of a table: a row a family."""
    found = ratios(needed, ours)

    def cell(value: float | None, form: str) -> str:
        return "not reached" if value is None else format(value, form)

    return [
        [
            title,
            family,
            cell(need.rounds, "g"),
            cell(need.ms, ".2f"),
            cell(found[family]["rounds"], ".2f"),
            cell(found[family]["time"], ".2f"),
        ]
        for family, need in needed.items()
    ]


HEAD = ["at equal", "solver", "rounds", "p50 ms", "rounds / PCM's", "time / PCM's"]
