"""Time PCM rounds beside what users of the same weights run today, all sides taking turns.

    export PCM_LEROBOT_PYTHON=FOLDER/bin/python  # python -m benchmarks.lerobot.env FOLDER
    python -m benchmarks.compare.users [--policy released/pusht] [--calls 60]

LeRobot's rows are its own package as it ships: eager, on the same number of threads, in a process
of its own, which times itself. Few-step DPM-Solver++ runs in the same engines as our rounds. A call
goes from raw observations to the normalised chunk, batch 1, float32 unless bf16 is said. ``cpu`` is
the median of the time that our process computed; LeRobot's rows have none.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.compare.policies import identity, load
from benchmarks.compare.sides import Side, Solved, ours
from benchmarks.compare.timing import batches, timed_turns
from benchmarks.lerobot.side import lerobot_side, python
from pcm_policy.adopt.lerobot_peer import LeRobotPeer
from pcm_policy.adopt.lerobot_sampling import common_sampler
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import weights
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.auto import versions
from pcm_policy.runtime.config import Name, Precision, RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

THEIRS = ("ddpm-100", "ddim-10", "ddim-16")
"""LeRobot's samplers; the first is its default and what ratios are taken to."""
ENGINES: tuple[tuple[Name, Precision], ...] = (
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("openvino", "bf16"),
)
FEW_STEPS = (2, 4, 8)


def our_solvers(policy: DiffusionPolicy) -> list[Solver]:
    """Return what runs in every engine: the head's rounds, its base, and few-step sampling."""
    head = policy.config.head
    assert head is not None
    solvers = [Solver.of("pcm", head.sampler, rounds=rounds) for rounds in (1, 2)]
    solvers.append(Solver.of("sequential", head.sampler))
    for steps in FEW_STEPS:
        solvers.append(Solver.of("sequential", SamplerConfig("dpmpp_2m", steps)))
    return solvers


def sides(policy: DiffusionPolicy, obs: Tensor, stack: ExitStack) -> Iterator[Side]:
    """Yield LeRobot's sides, whose chunks were compared with ours, and then ours.

    Raises:
        PcmError: LeRobot cannot run, or its chunks differ from ours.
    """
    for name in THEIRS:
        kind, steps = name.split("-")
        sampler = common_sampler(kind, int(steps))
        peer = stack.enter_context(LeRobotPeer(python(), policy, sampler, obs, [0, 1]))
        yield lerobot_side(peer)
    for solver in our_solvers(policy):
        yield ours(policy, solver)
        for mode, precision in ENGINES:
            if precision != "float32" and not solver.uses_head:
                continue  # rounded in every step, a sequential chunk moves by up to 0.2: refused
            side = ours(policy, solver, Runtime(policy, RuntimeConfig(mode, precision)))
            yield side if precision == "float32" else replace(side, mode=f"{mode} {precision}")


def computing(side: Side, spent: list[float]) -> Side:
    """Return a side that also notes the time that this process computes."""

    def run(obs: Tensor, seed: int) -> Solved:
        before = time.process_time()
        found = side.run(obs, seed)
        spent.append((time.process_time() - before) * 1e3)
        return found

    return replace(side, run=run)


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return one policy's rows and what they were measured with."""
    torch.set_num_threads(args.threads)
    policy, observations, trained = load(name, torch.device("cpu"))
    obs = batches(observations, 1)
    about = identity(policy.device) | {"weights": weights(policy)}
    about |= {"threads": args.threads, "trained": trained}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        every = list(sides(policy, obs, stack))
        own: list[list[float]] = [[] for _ in every]
        noted = [computing(side, spent) for side, spent in zip(every, own, strict=True)]
        timed = timed_turns(noted, obs, args.calls, args.seconds, least=5)
    for side, calls, spent in zip(every, timed, own, strict=True):
        ms, rounds, _ = (list(x) for x in zip(*calls, strict=True))
        cpu = None if side.package == "lerobot" else float(np.median(spent[-len(ms) :]))
        row = {"package": side.package, "solver": side.label, "mode": side.mode}
        row |= {"rounds": max(rounds), "calls": len(ms), "cpu_ms": cpu}
        rows.append(row | {f"{k}_ms": v for k, v in percentiles(ms).items()})
    for row in rows:
        for theirs, base in zip(THEIRS, rows, strict=False):
            row[f"faster_than_{theirs}"] = base["p50_ms"] / row["p50_ms"]
    return about | {"engines": versions(), "batch": 1, "dtype": "float32", "rows": rows}


HEAD = ["", "mode", "p50 ms", "p95 ms", *(f"faster than LeRobot's {name}" for name in THEIRS)]


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table."""
    show: Callable[[float], str] = lambda value: f"{value:.1f}x"  # noqa: E731
    return [
        [
            f"{'LeRobot ' if row['package'] == 'lerobot' else ''}{row['solver']}",
            row["mode"],
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            *(show(row[f"faster_than_{name}"]) for name in THEIRS),
        ]
        for row in rows
    ]


def main() -> None:
    """Time, print, and write ``users.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht", help="a policy with a PCM head")
    parser.add_argument("--calls", type=int, default=60, help="most calls of each side")
    parser.add_argument("--seconds", type=float, default=240.0, help="no turn starts after these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "compare/users.json")
    args = parser.parse_args()
    found = measured(args.policy, args)
    write_text(args.output, to_json(found))
    print(table(HEAD, lines(found["rows"])))


if __name__ == "__main__":
    main()
