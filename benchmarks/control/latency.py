"""Score against latency on Push-T: what waiting, naive asynchrony and continued prefixes cost.

    python -m benchmarks.control.latency [--episodes 200] [--output benchmarks/results/latency]

Part one, deterministic: every solve takes 0...7 control steps, episodes are paired (same seeds and
noise streams), and the simulator keeps moving. Modes: ``sync`` waits; ``naive`` executes the old
plan meanwhile and drops the late actions of the new one; ``prefix`` freezes what is executed
meanwhile (and the one executed action that the chunk looks back on) inside the solve. These three
solve the base sampler sequentially; the last two use PCM rounds from the shifted last solve (two,
and ``--base-rounds`` of the base after them),
``coupled`` with its noise shifted as well. A loss is the paired difference to ``naive`` without
latency.

With ``--repeat 2`` every control step is two steps of the simulator: a world that moves twice as
fast as the demonstrations, where old observations hurt more.

Part two, measured (``--measured-hz``): every solve is timed on this machine, alone, and costs what
it takes at a control rate that sequential DDPM-100 cannot hold. A control step is an environment
step of 0.1 s at every rate: a higher rate is a faster world.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.control.delay import FixedLatency, LatencyModel, MeasuredLatency
from pcm_policy.control.settings import ControlSettings
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.pictures import new_figure, save_figure
from pcm_policy.measure.statistics import paired_difference_interval, percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.simulate import SimulationResult, simulate
from pcm_policy.serving.planner import Planner
from pcm_policy.solvers.registry import Solver

ENV_STEPS = 300
ENV = "pcm_policy/PushTKeypoints-v0"
SEED = 100_000
PREFIX = {"mode": "async", "prefix": True, "prefix_past": True}
WARM = PREFIX | {"warm_start": "trajectory"}
MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "sync": ("base", {}),
    "naive": ("base", {"mode": "async"}),
    "prefix": ("base", PREFIX),
    "prefix, warm, PCM": ("pcm", WARM),
    "prefix, warm, PCM, coupled": ("pcm", WARM | {"couple_noise": True}),
}


class Repeat(gym.Wrapper[Any, Any, Any, Any]):
    """A faster world: every action is executed for several steps of the simulator."""

    def __init__(self, env: gym.Env[Any, Any], times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute an action; the reward is the best of its steps."""
        best = float("-inf")
        for _ in range(self.times):
            frame, reward, terminated, truncated, info = self.env.step(action)
            best = max(best, float(reward))
            if terminated or truncated:
                break
        return frame, best, terminated, truncated, info


def run(
    policy: DiffusionPolicy,
    solver: Solver,
    latency: LatencyModel,
    settings: ControlSettings,
    options: argparse.Namespace,
    batch: int,
) -> SimulationResult:
    """Run the episodes of one point."""
    return simulate(
        Planner(policy, solver),
        ENV,
        latency,
        settings,
        episodes=options.episodes,
        seed=SEED,
        num_envs=batch,
        solve_batch=batch,
        max_steps=ENV_STEPS * options.repeat,  # as many control steps in every world
        rest=lambda frame: frame[18:20],
        wrap=None if options.repeat == 1 else lambda env: Repeat(env, options.repeat),
        progress=False,
    )


def pcm(policy: DiffusionPolicy, options: argparse.Namespace) -> Solver:
    """Return rounds of the head, then rounds of the base."""
    rounds = options.rounds + options.base_rounds
    shares = [1.0] * options.rounds
    return policy.solver({"method": "pcm", "shares": shares, "rounds": rounds})


def point(found: SimulationResult, mode: str) -> dict[str, Any]:
    """Return one point as plain data."""
    outcome = found.to_json()
    outcome["scores"] = [e["score"] for e in outcome.pop("episodes")]
    return {"mode": mode, **outcome}


def fixed(policy: DiffusionPolicy, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run part one."""
    solvers = {
        "base": policy.solver({"method": "sequential"}),
        "pcm": pcm(policy, options),
    }
    period_ms = 1e3 / policy.config.control_hz
    batch = min(options.batch, options.episodes)
    points = []
    jobs = [(steps, mode) for steps in options.steps for mode in options.modes]
    for steps, mode in tqdm(jobs, desc="latency", disable=None):
        which, values = MODES[mode]
        settings = ControlSettings(replan_steps=options.replan, **values)
        latency = FixedLatency(steps * period_ms)
        found = run(policy, solvers[which], latency, settings, options, batch)
        points.append({"latency_steps": steps, "solver": solvers[which].label})
        points[-1] |= point(found, mode)
    reference = next(p for p in points if p["mode"] == "naive")["scores"]
    for p in points:
        loss = paired_difference_interval(reference, p["scores"])
        mean = sum(reference) / len(reference) - p["score"]["mean"]
        p["loss"] = {"mean": mean, "ci95": list(loss)}
    return points


def measured(policy: DiffusionPolicy, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run part two."""
    solvers = {
        "sequential DDPM": policy.solver({"method": "sequential", "sampler": "ddpm"}),
        "PCM": pcm(policy, options),
    }
    points = []
    jobs = [(s, m) for s in solvers for m in ({}, {"mode": "async"}, WARM)]
    for name, values in tqdm(jobs, desc="measured", disable=None):
        if name != "PCM" and values is WARM:
            values = PREFIX  # a sequential solve takes no warm start
        settings = ControlSettings(control_hz=options.measured_hz, **values)
        found = run(policy, solvers[name], MeasuredLatency(), settings, options, 1)
        mode = "sync" if not values else "naive" if len(values) == 1 else "prefix"
        mode += ", warm" if "warm_start" in values else ""
        points.append({"solver": solvers[name].label, "control_hz": options.measured_hz})
        points[-1] |= point(found, mode)
        points[-1]["latency_ms"] = percentiles(found.control.latencies_ms)
    return points


def picture(report: dict[str, Any], path: Path) -> None:
    """Draw scores and seam jumps against latency."""
    figure = new_figure(13, 4.5)
    left, right = figure.subplots(1, 2)
    for mode in dict.fromkeys(p["mode"] for p in report["fixed"]):
        row = [p for p in report["fixed"] if p["mode"] == mode]
        steps = [p["latency_steps"] for p in row]
        mean = [p["score"]["mean"] for p in row]
        low = [m - p["score"]["ci95"][0] for m, p in zip(mean, row, strict=True)]
        high = [p["score"]["ci95"][1] - m for m, p in zip(mean, row, strict=True)]
        left.errorbar(steps, mean, [low, high], marker="o", capsize=2, label=mode)
        right.plot(steps, [p["seams"]["jump"] for p in row], marker="o", label=mode)
    left.set_ylabel("score [95 %]")
    right.set_ylabel("second difference of the command at a seam [px]")
    for axis in (left, right):
        axis.set_xlabel("latency of every solve [control steps]")
    left.legend(fontsize=8)
    title = f"Push-T, {report['episodes']} paired episodes, {report['replan']} steps a plan"
    title += "" if report["repeat"] == 1 else f", world {report['repeat']}x as fast"
    figure.suptitle(title)
    save_figure(figure, path)


def main() -> None:
    """Run both parts and write ``latency.json`` and ``latency.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--steps", type=int, nargs="*", default=list(range(8)))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--replan", type=int, default=8, help="executed steps a plan")
    parser.add_argument("--repeat", type=int, default=1, help="simulator steps a control step")
    parser.add_argument("--rounds", type=int, default=2, help="PCM rounds")
    parser.add_argument("--base-rounds", type=int, default=0, help="base rounds after them")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--measured-hz", type=float, default=0.0, help="0: leave part two out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "latency")
    options = parser.parse_args()
    options.steps = sorted({0, *options.steps}) if options.steps else []  # the reference is at 0
    if "naive" not in options.modes:
        parser.error("--modes: losses are taken against naive at 0 steps, which is not among them")
    torch.set_num_threads(options.threads)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    report: dict[str, Any] = {
        "episodes": options.episodes,
        "seed": SEED,
        "replan": options.replan,
        "repeat": options.repeat,
        **conditions(policy),
        "fixed": fixed(policy, options) if options.steps else [],
        "measured": measured(policy, options) if options.measured_hz else [],
    }
    write_text(options.output / "latency.json", to_json(report))
    if report["fixed"]:
        picture(json.loads(to_json(report)), options.output / "latency.png")
        head = ["mode", "steps", "score [95 %]", "loss [95 %]", "seam jump", "mode switches"]
        print(table(head, [_cells(p) for p in report["fixed"]]))
    if report["measured"]:
        head = ["solver", "mode", "score [95 %]", "misses", "p50 / p99 ms"]
        print(table(head, [_measured_cells(p) for p in report["measured"]]))


def _score(p: dict[str, Any]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(p["score"]["mean"], *p["score"]["ci95"])


def _cells(p: dict[str, Any]) -> list[str]:
    loss = "{:+.3f} [{:+.3f}, {:+.3f}]".format(p["loss"]["mean"], *p["loss"]["ci95"])
    seams = p["seams"]
    jump, switches = f"{seams['jump']:.1f}", f"{seams['mode_switches']:.1%}"
    return [p["mode"], str(p["latency_steps"]), _score(p), loss, jump, switches]


def _measured_cells(p: dict[str, Any]) -> list[str]:
    times = p["latency_ms"]
    spent = f"{times['p50']:.1f} / {times['p99']:.1f}"
    return [p["solver"], p["mode"], _score(p), f"{p['miss_rate']:.1%}", spent]


if __name__ == "__main__":
    main()
