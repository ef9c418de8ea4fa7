"""Score against latency on several tasks: what waiting, dropping late actions and prefixes cost.

    python -m benchmarks.control.arms --task lift --policy outputs/lift_pcm/policy
    python -m benchmarks.control.arms --task metaworld/pick-place --policy outputs/pick_pcm/policy
    python -m benchmarks.control.arms --task pusht --policy released/pusht
    python -m benchmarks.control.arms --table

Every solve takes 0 to 7 control steps, and the simulator keeps moving; episodes are paired (same
seeds and noise). The modes are those of :mod:`benchmarks.control.latency`: ``sync`` waits,
``naive`` drops late actions, ``prefix`` continues what is executed meanwhile; these solve the base
sampler sequentially. ``prefix, warm, PCM`` solves with two rounds of the head. An episode ends at
success.

A cell is one mode at one latency. The file of a task is written after every cell, and a run that
was interrupted goes on with the cells that are missing: repeat the command. Several tasks may run
beside each other, one process each.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import RESULTS
from benchmarks.control.latency import MODES
from pcm_policy.cli.compose import compose, env_kwargs, plain
from pcm_policy.control.config import rest_command, robot_settings
from pcm_policy.control.delay import FixedLatency
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.statistics import paired_difference_interval
from pcm_policy.measure.tables import markdown
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.controlled import ControlAgent
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.outcomes import EvalResult, outcomes
from pcm_policy.rollout.seats import Seats
from pcm_policy.rollout.trials import Trials
from pcm_policy.serving.planner import Planner

SEED = 100_000
SHOWN = ("sync", "naive", "prefix", "prefix, warm, PCM")


class Grid:
    """The cells of one task, in one file.

    Args:
        path: of the file; read if it is there.
        setup: what every cell depends on.

    Raises:
        PcmError: the file's cells were measured with something else.
    """

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self.path, self.setup = path, setup
        self.cells: list[dict[str, Any]] = []
        if path.exists():
            found = json.loads(path.read_text())
            for key, value in json.loads(to_json(setup)).items():
                if found["setup"].get(key) != value:
                    raise PcmError(
                        f"{path} was measured with {key}={found['setup'].get(key)}, not {value}: "
                        "go on with that, or remove the file"
                    )
            self.cells = found["cells"]

    def has(self, mode: str, steps: int) -> bool:
        """Whether a cell is there."""
        return any((c["mode"], c["latency_steps"]) == (mode, steps) for c in self.cells)

    def add(self, cell: dict[str, Any]) -> None:
        """Write the file with one cell more."""
        self.cells.append(cell)
        write_text(self.path, to_json({"setup": self.setup, "cells": self.cells}))


def measure(
    planner: Planner,
    trials: Trials,
    seats: Seats,
    task: dict[str, Any],
    mode: str,
    steps: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Run the episodes of one cell."""
    settings = robot_settings({"replan_steps": options.replan, **MODES[mode][1]}, task)
    agent = ControlAgent(
        planner,
        FixedLatency(steps * settings.period_ms(planner.spec)),
        settings,
        solve_batch=options.solve_batch,
        rest=rest_command(task, planner.spec.obs_fields),
    )
    begin = time.monotonic()
    runs: list[Run] = trials.run(agent, seats=seats)
    found = EvalResult(outcomes(runs))
    outcome = found.to_json()
    return {
        "mode": mode,
        "latency_steps": steps,
        "solver": planner.solver.label,
        "score": outcome["score"],
        "success": outcome["success"],
        "scores": found.scores,
        "successes": [int(bool(e.success)) for e in found.episodes],
        "steps": [e.steps for e in found.episodes],
        **agent.outcome(runs).to_json(),
        "seconds": round(time.monotonic() - begin, 1),
        **conditions(planner.policy),
    }


def fill(options: argparse.Namespace) -> None:
    """Measure the missing cells of a task, those without latency first."""
    torch.set_num_threads(options.threads)
    task = plain(compose("eval", [f"task={options.task}", "output_dir=unused"]).task)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    made = conditions(policy)
    setup = {
        "task": options.task,
        "policy": str(options.policy),
        "weights": made["weights"],
        "episodes": options.episodes,
        "seed": SEED,
        "replan": options.replan,
        "rounds": options.rounds,
        "max_steps": options.max_steps,
        "solve_batch": options.solve_batch,
        "control_hz": policy.config.control_hz,
    }
    grid = Grid(options.output / f"{options.task.replace('/', '_')}.json", setup)
    pcm = {"method": "pcm", "rounds": options.rounds}
    solvers = {"base": {"method": "sequential"}, "pcm": pcm}
    needed = {MODES[mode][0] for mode in options.modes}
    planners = {name: Planner(policy, policy.solver(solvers[name])) for name in needed}
    limit, wanted = options.max_steps, env_kwargs(task)
    trials = Trials(
        task["env_id"], options.episodes, SEED, options.envs, max_steps=limit, env_kwargs=wanted
    )
    missing = [(s, m) for s in options.steps for m in options.modes if not grid.has(m, s)]
    if not missing:
        return
    seats = trials.seats(None)  # made once: robosuite takes seconds for each
    gc.collect()
    gc.freeze()  # robosuite collects garbage at every reset, which goes through all that is loaded
    for steps, mode in missing:
        cell = measure(planners[MODES[mode][0]], trials, seats, task, mode, steps, options)
        grid.add(cell)
        score, success = cell["score"]["mean"], cell["success"]["rate"]
        print(
            f"{options.task} {mode} {steps}: score {score:.3f}, success {success:.2f}, "
            f"{cell['seconds']:.0f} s",
            flush=True,
        )
    seats.close()


def tables(*tasks: dict[str, Any]) -> str:
    """Return a table a task, its whole columns alone; what is missing is said."""
    return "\n\n".join(map(_table, tasks)) + "\n"


def _table(found: dict[str, Any]) -> str:
    cells = {(c["mode"], c["latency_steps"]): c for c in found["cells"]}
    modes = [mode for mode in SHOWN if any(m == mode for m, _ in cells)]
    latencies = sorted({steps for _, steps in cells})
    whole = [s for s in latencies if all((mode, s) in cells for mode in modes)]
    setup = found["setup"]
    part = "" if whole == list(range(8)) else f"; measured in part, {len(cells)} cells"
    return "\n\n".join(
        [
            f"`{setup['task']}`, {setup['episodes']} episodes, weights "
            f"`{setup['weights']['network']}` and `{setup['weights']['head']}`: score, and median "
            f"steps of an episode, against latency in control steps{part}",
            markdown(
                ["mode", *map(str, whole)],
                [[mode, *(_cell(cells, mode, steps) for steps in whole)] for mode in modes],
            ),
        ]
    )


def _cell(cells: dict[tuple[str, int], dict[str, Any]], mode: str, steps: int) -> str:
    """Return score and steps; ``*`` where the score differs from naive without latency."""
    cell, reference = cells[mode, steps], cells.get(("naive", 0))
    score, took = float(np.mean(cell["scores"])), f"{np.median(cell['steps']):.0f}"
    mark = ""
    if reference is not None and (mode, steps) != ("naive", 0):
        low, high = paired_difference_interval(cell["scores"], reference["scores"])
        mark = "" if low <= 0 <= high else "*"
    return f"{score:.2f}{mark}, {took}"


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    parser.add_argument("--task", default="lift")
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--steps", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(SHOWN))
    parser.add_argument("--replan", type=int, default=8, help="executed steps a plan")
    parser.add_argument("--rounds", type=int, default=2, help="PCM rounds")
    parser.add_argument("--max-steps", type=int, help="of an episode; the task's own if not given")
    parser.add_argument("--envs", type=int, default=10, help="episodes side by side")
    parser.add_argument("--solve-batch", type=int, default=10, help="rows of a solve")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "arms")
    options = parser.parse_args()
    if options.table:
        found = sorted(options.output.glob("*.json"))
        print(tables(*(json.loads(path.read_text()) for path in found)), end="")
        return
    try:
        fill(options)
    except PcmError as error:
        sys.exit(f"arms: {error}")


if __name__ == "__main__":
    main()
