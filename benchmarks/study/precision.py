"""Scores of PCM rounds in lower precision beside float32, over paired episodes of Push-T.

    python -m benchmarks.study.precision [--policy released/pusht] [--episodes 600]

Solves run one observation at a time, as on a robot, in one engine; a bfloat16 network rounds
differently in a batch. Episodes have the seeds and the noise of the published ones. Run again, it
goes on after the last finished row.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.study.pcm import SEED
from benchmarks.study.rows import compare, play
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.auto import versions
from pcm_policy.runtime.config import Precision, RuntimeConfig

PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
"""The first one is what the others are compared with."""


def measured(
    policy: DiffusionPolicy, rounds: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the rows of one number of rounds, a precision each."""
    solver = policy.solver({"method": "pcm", "rounds": rounds})
    played = {
        precision: play(
            policy,
            solver,
            args.episodes,
            args.seed,
            args.kept,
            RuntimeConfig(args.mode, precision),
        )
        for precision in PRECISIONS
    }
    base = played[PRECISIONS[0]]
    return [
        {"rounds": rounds, "precision": precision, **compare(one, base)}
        for precision, one in played.items()
    ]


HEAD = ["rounds", "precision", "score", "difference", "success", "difference "]


def cells(row: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    found = [str(row["rounds"]), row["precision"]]
    for name in ("score", "success"):
        one = row[name]
        low, high = one["ci95"]
        found.append(f"{one['mean']:.3f} [{low:.3f}, {high:.3f}]")
        low, high = one["difference_ci95"]
        same = row["precision"] == PRECISIONS[0]
        found.append("" if same else f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]")
    return found


def main() -> None:
    """Play, print, and write ``precision.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht", help="a policy with a PCM head")
    parser.add_argument("--mode", default="openvino")
    parser.add_argument("--rounds", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--kept", type=Path, default=Path("outputs/precision"))
    parser.add_argument("--output", type=Path, default=RESULTS / "study/precision.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(args.policy)
    about = conditions(policy) | {"policy": args.policy, "engines": versions()}
    about["runtime"] = {"mode": args.mode, "precision": "see rows", "threads": 1, "batch": 1}
    rows: list[dict[str, Any]] = []
    for rounds in args.rounds:
        rows += measured(policy, rounds, args)
        played = {"episodes": args.episodes, "seed": args.seed, "rows": rows}
        write_text(args.output, to_json(about | played))
    lines = [cells(row) for row in rows]
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
