"""Which solver is as good as the base in closed loop, and how much faster than DDPM-100 is it?

    python benchmarks/equal_score.py [--policy POLICY] [--episodes 600] [--output FILE.json]
        [--only ddim-16 "newton 3"]

All rows run the same episodes (from seed 100000) with paired noise; the difference of scores to
the first row comes with its paired 95 % interval. Equal means that the interval lies within plus or
minus 0.03. Few-step samplers use the spacing given in their row (``benchmarks/pcm_study.py``
searches for better ones). Times are one prediction at batch 1, all rows taking turns.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcm_policy.bench import hardware, time_predictions
from pcm_policy.checkpoint import held_out_observations, to_json, write_text
from pcm_policy.evaluate import evaluate
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.report import table
from pcm_policy.rollout_policy import EpisodePolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig
from pcm_policy.statistics import paired_difference_interval

SEED, WITHIN = 100_000, 0.03


def solvers_of(policy: DiffusionPolicy) -> list[SolverConfig]:
    """List the rows; scores are compared with the first one chosen, times with DDPM-100."""
    head = policy.config.head
    exact = policy.config.sampler if head is None else head.sampler
    found = [
        SolverConfig("sequential", SamplerConfig("ddpm", policy.config.schedule.train_steps)),
        SolverConfig("sequential", exact),
    ]
    for name, steps in (
        ("ddim", 2),
        ("ddim", 3),
        ("ddim", 4),
        ("ddim", 8),
        ("dpmpp_2m", 3),
        ("dpmpp_2m", 4),
    ):
        found.append(SolverConfig("sequential", SamplerConfig(name, steps)))  # type: ignore[arg-type]
    found += [SolverConfig("newton", exact, rounds=r) for r in (2, 3)]
    found.append(SolverConfig("coarse", exact, rounds=4))
    if head is not None:
        found += [SolverConfig("pcm", exact, rounds=r) for r in (1, 2)]
        found.append(SolverConfig("pcm", exact, rounds=2, pcm_rounds=1))
    return found


def main() -> None:
    """Evaluate, time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/equal_score.json"))
    parser.add_argument("--only", nargs="+", help="rows to play, by the start of their names")
    options = parser.parse_args()
    policy = DiffusionPolicy.from_pretrained(options.policy)
    solvers = solvers_of(policy)
    timed = time_predictions(policy, solvers, held_out_observations(options.policy).numpy(), 200)
    rows: list[dict[str, Any]] = []
    first: list[float] = []
    for solver, times in zip(solvers, timed, strict=True):
        if options.only and not solver.label.startswith(tuple(options.only)):
            continue
        print(solver.label, flush=True)
        result = evaluate(
            EpisodePolicy(policy, solver),
            "pcm_policy/PushTKeypoints-v0",
            episodes=options.episodes,
            seed=SEED,
            num_envs=50,
            solve_batch=50,
        )
        scores = [episode.score for episode in result.episodes]
        first = first or scores
        low, high = paired_difference_interval(scores, first)
        found = {k: v for k, v in result.to_json().items() if k != "episodes"}
        rows.append(
            {
                "solver": f"{solver.label} {solver.sampler.spacing}",
                **found,
                "difference": float(np.mean(scores) - np.mean(first)),
                "difference_ci95": [low, high],
                "equal": low >= -WITHIN and high <= WITHIN,
                "latency_ms": times,
                "speedup": timed[0]["p50"] / times["p50"],
            }
        )
    report = {
        "command": f"python benchmarks/equal_score.py --policy {options.policy} "
        f"--episodes {options.episodes}",
        "episodes": options.episodes,
        "seed": SEED,
        "within": WITHIN,
        "hardware": hardware(torch.device("cpu")),
        "rows": rows,
    }
    write_text(options.output, to_json(report))
    head = ["solver", "score", "success", "difference [95 %]", "equal", "p50 ms", "times faster"]
    print(
        table(
            head,
            [
                [
                    row["solver"],
                    f"{row['score']['mean']:.3f}",
                    f"{row['success']['rate']:.2f}",
                    f"{row['difference']:+.3f} [{row['difference_ci95'][0]:+.3f}, "
                    f"{row['difference_ci95'][1]:+.3f}]",
                    "yes" if row["equal"] else "no",
                    f"{row['latency_ms']['p50']:.2f}",
                    f"{row['speedup']:.1f}",
                ]
                for row in rows
            ],
        )
    )


if __name__ == "__main__":
    main()
