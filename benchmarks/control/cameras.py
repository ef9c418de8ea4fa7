"""Time from new frames to an action: every frame encoded once, against encoded in every solve.

    python -m benchmarks.control.cameras [--calls 40] [--modes eager onnx openvino]

All sides take turns in one process, one thread, batch 1. ``predict`` encodes both observations of
``To = 2`` in every call. The other sides are a controller that plans in every tick: the planner has
the features of the frame before, and encodes the newest one, in eager execution or in the engine
that solves. Weights are those of an untrained policy: times do not depend on them. The JSON has the
largest difference between features of a side and of ``predict``.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import RESULTS
from pcm_policy import DiffusionPolicy, PolicyConfig, RuntimeConfig
from pcm_policy.control import Controller, ControlSettings
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.runtime.timing import Side, take_turns
from pcm_policy.serving.planner import Planner

LIFT = VisionConfig((9, "agentview", "wrist"), {"agentview": (84, 84), "wrist": (84, 84)})
PUSHT = VisionConfig((2, "image"), {"image": (96, 96)})
TASKS = {
    "lift": (replace(LIFT, crop=(76, 76)), 7),
    "pusht": (replace(PUSHT, crop=(84, 84)), 2),
}
FRAMES = 32
CALLED = {"lift": "Lift, two cameras 84 x 84", "pusht": "Push-T, one camera 96 x 96"}
SIDES = {
    "`predict`, eager": ("predict", "eager"),
    "encoded once, eager": ("encoded once", "eager"),
    "encoded once, OpenVINO": ("encoded once", "openvino"),
}
HEAD = ["policy", "solver", *SIDES]
Solving = dict[str, Any]
SOLVERS: dict[str, Solving] = {"ddim-16": {}, "picard 2": {"method": "picard", "rounds": 2}}


def make(task: str) -> DiffusionPolicy:
    """Build a task's policy with random weights; its normalisers accept everything."""
    vision, actions = TASKS[task]
    torch.manual_seed(0)
    policy = DiffusionPolicy(PolicyConfig(vision.obs_dim, actions, vision=vision))
    for normalizer, bound in ((policy.obs_normalizer, torch.inf), (policy.action_normalizer, 10.0)):
        normalizer.low.fill_(-bound)
        normalizer.high.fill_(bound)
    return policy


def frames(vision: VisionConfig) -> list[dict[str, Any]]:
    """Draw what is seen in some ticks."""
    rng, found = np.random.default_rng(0), []
    for _ in range(FRAMES):
        state = rng.uniform(-1, 1, vision.state_dim).astype(np.float32)
        images = {k: rng.integers(0, 256, (*s, 3), np.uint8) for k, s in vision.cameras.items()}
        found.append({"state": state, **images})
    return found


def predicting(policy: DiffusionPolicy, seen: list[dict[str, Any]], solving: Solving) -> Side:
    """Return a side that calls ``predict`` with the last two observations."""
    solver = policy.solver(solving)

    def call(number: int) -> None:
        pair = [seen[(number + k) % FRAMES] for k in (-1, 0)]
        policy.predict({k: np.stack([one[k] for one in pair]) for k in pair[0]}, solver=solver)

    return call


def controlling(planner: Planner, seen: list[dict[str, Any]]) -> tuple[Side, Callable[[], float]]:
    """Return a side that takes a controller through a tick; and how far its features are off."""
    controller = Controller(planner.spec, ControlSettings(replan_steps=1))

    def call(number: int) -> None:
        controller.observe(seen[number % FRAMES])
        request = controller.request()
        assert request is not None
        controller.accept(planner.plan(request))
        assert controller.act().how == "plan"

    def off() -> float:
        controller.observe(seen[0])
        request = controller.request()
        assert request is not None
        planner.plan(request)
        want = planner.policy.observe(request.observation)
        return float((planner.features.observations([request]) - want).abs().max())

    return call, off


def measured(task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all sides of a task."""
    seen, names, sides, off = frames(TASKS[task][0]), [], [], []
    for label in options.solvers:
        solving = SOLVERS[label]
        names.append((label, "predict", "eager"))
        sides.append(predicting(make(task), seen, solving))
        off.append(lambda: 0.0)
        for mode in options.modes:
            policy = make(task)
            policy.use(RuntimeConfig(mode=mode))
            side, difference = controlling(Planner(policy, policy.solver(solving)), seen)
            names.append((label, "encoded once", mode))
            sides.append(side)
            off.append(difference)
    rows = []
    spent = take_turns(sides, options.calls, warmup=3)
    for (label, way, mode), times, difference in zip(names, spent, off, strict=True):
        found = percentiles(times)
        first = next(r for r in rows if r["solver"] == label)["ms"] if way != "predict" else found
        row = {"task": task, "solver": label, "way": way, "mode": mode, "ms": found}
        ratio = first["p50"] / found["p50"]
        rows.append(row | {"times_faster": ratio, "largest_feature_difference": difference()})
    return rows


def lines(found: dict[str, Any]) -> list[list[str]]:
    """Return the table of the document, of the sides that it compares: p50, and times faster."""
    rows = {(r["task"], r["solver"], r["way"], r["mode"]): r for r in found["rows"]}
    table = []
    for task, solver in dict.fromkeys((row["task"], row["solver"]) for row in found["rows"]):
        some = [rows[task, solver, *side] for side in SIDES.values()]
        times = [f"{row['ms']['p50']:.1f} ({row['times_faster']:.1f}x)" for row in some[1:]]
        table.append([CALLED[task], solver, f"{some[0]['ms']['p50']:.1f}", *times])
    return table


def main() -> None:
    """Run and write ``cameras.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--modes", nargs="+", default=["eager", "onnx", "openvino"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--output", type=Path, default=RESULTS / "cameras")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for task in options.tasks for row in measured(task, options)]
    report = {"calls": options.calls, "rows": rows, **conditions(make("pusht"))}
    write_text(options.output / "cameras.json", to_json(report))
    head = ["task", "solver", "way", "mode", "p50 ms", "p95 ms", "times faster", "features off"]
    cells = [
        [
            *(row[key] for key in ("task", "solver", "way", "mode")),
            f"{row['ms']['p50']:.1f}",
            f"{row['ms']['p95']:.1f}",
            f"{row['times_faster']:.2f}",
            f"{row['largest_feature_difference']:.1e}",
        ]
        for row in rows
    ]
    print(table(head, cells))


if __name__ == "__main__":
    main()
