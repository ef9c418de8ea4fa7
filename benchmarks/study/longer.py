"""Rows of a study over more episodes, for differences that 600 episodes cannot tell apart.

    python -m benchmarks.study.longer --output DIR [--policy released/pusht] [--episodes 2400]

DIR is the folder of ``benchmarks.study.pcm``, whose rows these are. Episodes are played in blocks
of as many as the study has, from its first seed on, and kept in ``DIR/episodes``: the first block
is the study's own, and a command that was cut off goes on. Writes ``DIR/longer.json``.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.packages import todays
from benchmarks.study.rows import Played, compare, differences, play
from benchmarks.study.show import gap
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver

BASE, PCM = "base ", "PCM "
ROWS = ("PCM 1", "PCM 2")
HEAD = ["", "success", "success - base [95 %]", "score", "score - base [95 %]"]


def played(
    policy: DiffusionPolicy, solver: Solver, seed: int, episodes: int, block: int, kept: Path
) -> Played:
    """Return the outcomes of ``episodes`` from ``seed`` on, played in blocks."""
    blocks = [
        play(policy, solver, min(block, episodes - done), seed + done, kept)
        for done in range(0, episodes, block)
    ]
    scores = [score for one in blocks for score in one.scores]
    return Played(scores, [success for one in blocks for success in one.successes])


def rows(found: Mapping[str, Played], base: str) -> list[dict[str, Any]]:
    """Return score and success of every row, with paired differences to the base."""
    return [
        {
            "name": name,
            **compare(one, found[base]),
            "successes": "".join(str(int(success)) for success in one.successes),
        }
        for name, one in found.items()
    ]


def pairs(found: Mapping[str, Played], base: str) -> list[dict[str, Any]]:
    """Return the differences of every PCM row to every other row that is not the base."""
    ours = [name for name in found if name.startswith(PCM)]
    others = [name for name in found if name not in (base, *ours)]
    return [
        {"pair": f"{mine} - {other}", **differences(found[mine], found[other])}
        for mine in ours
        for other in others
    ]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    means = [f"{row[name]['mean']:.3f}" for name in ("success", "score")]
    gaps = [gap(row[name]) for name in ("success", "score")]
    return [row["name"], means[0], gaps[0], means[1], gaps[1]]


def main(argv: Sequence[str] | None = None) -> None:
    """Play, print, write.

    Raises:
        PcmError: the study has no such row.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--output", type=Path, required=True, help="folder of a study")
    parser.add_argument("--episodes", type=int, default=2400)
    parser.add_argument("--rows", nargs="+", default=ROWS, help="beside the study's base")
    options = parser.parse_args(argv)
    study = json.loads((options.output / "study.json").read_text())
    solvers = {row["name"]: row["solver"] for row in study["rows"]}
    base = next(name for name in solvers if name.startswith(BASE))
    missing = [name for name in options.rows if name not in solvers]
    if missing:
        raise PcmError(f"no row {', '.join(missing)}: the study has {', '.join(solvers)}")
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    kept, seed, block = options.output / "episodes", study["seed"], study["episodes"]
    found = {
        name: played(
            policy, policy.solver(todays(solvers[name])), seed, options.episodes, block, kept
        )
        for name in (base, *options.rows)
    }
    report = {**conditions(policy), "seed": seed, "episodes": options.episodes, "base": base}
    report |= {"rows": rows(found, base), "pairs": pairs(found, base)}
    write_text(options.output / "longer.json", to_json(report))
    print(table(HEAD, list(map(cells, report["rows"]))))


if __name__ == "__main__":
    main()
