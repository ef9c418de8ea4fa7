"""Rounds and rows until certified PCM has proven its chunk, by the step that follows the head.

    python -m benchmarks.solvers.certified [POLICY ...] [--observations 128]

Every held-out observation is solved alone, cold, with the same noise for every step. ``linearised``
is the reference of the change: quasi-Newton rounds, which certified PCM took before it took
Anderson's. ``subspace`` follows one round of the head, the others follow two. Rows are states that
the base is evaluated at. Intervals are bootstrapped over the observations, pair by pair.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import RESULTS
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions, made_by
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.statistics import bootstrap_mean_interval, paired_difference_interval
from pcm_policy.measure.tables import table
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers import PCM, Anderson, Newton, Picard, Subspace, Tolerance
from pcm_policy.solvers.registry import Solver

ERRORS = (1e-2, 1e-3)
POLICIES = ["released/pusht", "released/pusht_mlp"]
STEPS: dict[str, PCM] = {
    "linearised": PCM(then=Newton()),
    "picard": PCM(then=Picard()),
    "anderson": PCM(then=Anderson()),
    "subspace": PCM((1.0,), then=Subspace()),
    "subspace, 12 modes at 20 nodes": PCM((1.0,), then=Subspace(12, 20)),
}
HEAD = ["policy", "tolerance", "`solver.then`", "rounds (95 %)", "most", "rows", "change (95 %)"]


@torch.inference_mode()
def solved(
    policy: DiffusionPolicy, step: PCM, error: float, obs: torch.Tensor
) -> tuple[list[int], list[int]]:
    """Return the rounds and rows that certified PCM takes on every observation, ``(n, To, Do)``."""
    solver = policy.complete(Solver(step, Tolerance(error=error)))
    noise = paired_noise(policy, solver, len(obs))
    alone = [policy.solve(obs[i : i + 1], solver, noise.row(i)) for i in range(len(obs))]
    return [found.rounds for found in alone], [found.nfe for found in alone]


def measure(name: str, policy: DiffusionPolicy, obs: torch.Tensor) -> list[dict[str, Any]]:
    """Return a row for every tolerance and step after the head."""
    rows = []
    for error in ERRORS:
        counted = {then: solved(policy, step, error, obs) for then, step in STEPS.items()}
        reference = counted["linearised"][0]
        mean = float(np.mean(reference))
        for then, (rounds, evaluated) in counted.items():
            change = [end / mean for end in paired_difference_interval(rounds, reference)]
            rows.append(
                {
                    "policy": name,
                    "tolerance": error,
                    "then": then,
                    "rounds": float(np.mean(rounds)),
                    "rounds_95": bootstrap_mean_interval(rounds),
                    "worst_rounds": max(rounds),
                    "evaluations": float(np.mean(evaluated)),
                    "change": float(np.mean(rounds)) / mean - 1,
                    "change_95": change,
                }
            )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("policies", nargs="*", default=POLICIES)
    parser.add_argument("--observations", type=int, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS / "certified.json")
    options = parser.parse_args(argv)
    rows, reports = [], {}
    for name in options.policies:
        policy = DiffusionPolicy.from_pretrained(name)
        obs = held_out_observations(name)[: options.observations]
        rows += measure(name, policy, obs)
        reports[name] = {**conditions(policy), "observations": len(obs)}
    report = {**made_by(), "policies": reports, "rows": rows}
    write_text(options.output, to_json(report))
    print(table(HEAD, [cells(row) for row in rows]))


def cells(row: dict[str, Any]) -> list[str]:
    """Format one row of the results."""
    low, high = row["rounds_95"]
    least, most = row["change_95"]
    reference = row["then"] == "linearised"
    return [
        row["policy"],
        f"{row['tolerance']:g}",
        row["then"],
        f"{row['rounds']:.2f} ({low:.2f} to {high:.2f})",
        str(row["worst_rounds"]),
        f"{row['evaluations']:.0f}",
        "" if reference else f"{row['change']:+.0%} ({least:+.0%} to {most:+.0%})",
    ]


if __name__ == "__main__":
    main()
