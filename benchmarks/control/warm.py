"""What a solve gains from the last one: over whole rollouts, cold, warm, with coupled noise.

    python -m benchmarks.control.warm [--episodes 200] [--output benchmarks/results/warm]

Every row drives its own episodes (paired seeds and noise streams, no latency, ``--replan`` executed
steps a plan) with r rounds of its solver, so what is remembered is what r rounds gave. RMSE is
between each plan and the exact chunk (base sampler, sequentially) of the same observation and
noise, over the whole chunk from the newest observation on and over its executed part, in normalised
actions, for plans with a predecessor. Starts: ``cold``; ``chunk`` (last plan shifted);
``trajectory`` (last predictions at all states shifted). Noise: ``fresh`` or ``coupled``.

How strongly the reused noise depends on the observation: share of its variance that a linear ridge
regression on the observation explains in episodes it was not fitted to (fresh noise: zero up to
chance). A lower bound.
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.control.delay import FixedLatency
from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.pictures import new_figure, save_figure
from pcm_policy.measure.statistics import paired_difference_interval
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.simulate import simulate
from pcm_policy.serving.planner import Planner

ENV = "pcm_policy/PushTKeypoints-v0"
SEED = 100_000
METHODS = ("picard", "pcm")
STARTS = ("off", "chunk", "trajectory")
FOLDS = 5
RIDGE = 1.0
HEAD = ["solver", "start", "noise", "RMSE (cold over it)", "score [95 %]", "score - cold [95 %]"]
HEAD += ["seam jump", "seam jerk", "noise explained"]


def rollout(
    policy: DiffusionPolicy, solver: dict[str, Any], start: str, coupled: bool, options: Any
) -> dict[str, Any]:
    """Run one row."""
    chosen = policy.solver(solver)
    exact = Planner(
        policy, replace(policy.solver({"method": "sequential"}), sampler=chosen.sampler)
    )
    seen: list[tuple[PlanRequest, Plan]] = []
    planner = Planner(policy, chosen)
    batch = min(options.batch, options.episodes)
    found = simulate(
        planner,
        ENV,
        FixedLatency(0.0),
        ControlSettings(warm_start=start, couple_noise=coupled, replan_steps=options.replan),
        episodes=options.episodes,
        seed=SEED,
        num_envs=batch,
        solve_batch=batch,
        watch=lambda request, plan: seen.append((request, plan)),
        progress=False,
    )
    later = [(r, p) for r, p in seen if r.tick > 0]
    scale = policy.action_normalizer.scale.numpy()
    errors: list[float] = []
    executed: list[float] = []
    for i in range(0, len(later), 64):
        part = later[i : i + 64]
        wanted = exact.plan_batch([replace(r, warm_start="off") for r, _ in part], None, 64)
        for (_, plan), right in zip(part, wanted, strict=False):
            off = (plan.actions - right.actions) * scale
            errors.append(float(np.sqrt(np.mean(np.square(off)))))
            executed.append(float(np.sqrt(np.mean(np.square(off[: options.replan])))))
    outcome = found.to_json()
    return {
        "solver": chosen.label,
        "start": "cold" if start == "off" else start,
        "noise": "coupled" if coupled else "fresh",
        "plans": len(errors),
        "rmse": float(np.mean(errors)),
        "rmse_executed": float(np.mean(executed)),
        "rmse_p95": float(np.percentile(errors, 95)),
        "score": outcome["score"],
        "success": outcome["success"],
        "scores": [e["score"] for e in outcome["episodes"]],
        "seams": outcome["seams"],
        "explained": explained(planner, later, options.replan),
    }


def explained(
    planner: Planner, seen: list[tuple[PlanRequest, Plan]], replan: int
) -> dict[str, float]:
    """Return the share of the noise's variance that the observation explains, out of sample."""
    requests = [r for r, _ in seen]
    noise = torch.cat([planner._noise([r]).initial for r in requests]).numpy()
    obs = np.stack([r.obs.ravel() for r in requests]).astype(np.float64)
    obs = (obs - obs.mean(axis=0)) / (obs.std(axis=0) + 1e-9)
    folds = np.array([r.seed for r in requests]) % FOLDS
    first = planner.spec.obs_steps - 1
    parts = {"kept": noise[:, : planner.spec.horizon - replan]}
    parts |= {"first_action": noise[:, first : first + 1]}
    return {name: _ridge(obs, part.reshape(len(part), -1), folds) for name, part in parts.items()}


def _ridge(obs: NDArray[Any], noise: NDArray[Any], folds: NDArray[Any]) -> float:
    left = total = 0.0
    features = np.concatenate([obs, np.ones((len(obs), 1))], axis=1)
    for fold in range(FOLDS):
        fit, test = folds != fold, folds == fold
        if not fit.any() or not test.any():
            continue
        square = features[fit].T @ features[fit] + RIDGE * np.eye(features.shape[1])
        weights = np.linalg.solve(square, features[fit].T @ noise[fit])
        left += float(np.square(noise[test] - features[test] @ weights).sum())
        total += float(np.square(noise[test]).sum())
    return 1 - left / total if total else 0.0


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw RMSE against rounds for every start."""
    figure = new_figure(12, 4.5)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, method in zip(axes, ("picard", "pcm"), strict=True):
        for start in ("cold", *STARTS[1:]):
            for noise, style in (("fresh", "-"), ("coupled", "--")):
                line = [
                    r
                    for r in rows
                    if (r["method"], r["start"], r["noise"]) == (method, start, noise)
                ]
                rounds, rmse = [r["rounds"] for r in line], [r["rmse"] for r in line]
                axis.semilogy(rounds, rmse, style, marker="o", label=f"{start}, {noise} noise")
        axis.set_title("Picard rounds of the base" if method == "picard" else "PCM rounds")
        axis.set_xlabel("rounds")
    axes[0].set_ylabel("RMSE to the exact chunk")
    axes[0].legend(fontsize=8)
    save_figure(figure, path)


def main() -> None:
    """Run all rows and write ``warm.json`` and ``warm.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--rounds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="of the sampler of the Picard rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--replan", type=int, default=8, help="executed steps a plan")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "warm")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    rows = measure(policy, options)
    report = {"episodes": options.episodes, "seed": SEED, **conditions(policy), "rows": rows}
    write_text(options.output / "warm.json", to_json(report))
    if len({row["method"] for row in rows}) > 1:
        picture(rows, options.output / "warm.png")
    print(table(HEAD, list(map(cells, rows))))


def measure(policy: DiffusionPolicy, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every method, number of rounds, start and noise."""
    methods = [m for m in options.methods if m != "pcm" or policy.config.head is not None]
    jobs = list(product(methods, options.rounds, STARTS, (False, True)))
    rows: list[dict[str, Any]] = []
    for method, rounds, start, coupled in tqdm(jobs, desc="warm", disable=None):
        solver = {"method": method, "rounds": rounds}
        if method == "picard" and options.steps is not None:
            solver["steps"] = options.steps
        row = rollout(policy, solver, start, coupled, options)
        rows.append({"method": method, "rounds": rounds} | row)
        cold = next(r for r in rows if r["method"] == method and r["rounds"] == rounds)
        gain = paired_difference_interval(row["scores"], cold["scores"])
        rows[-1]["gain"] = {
            "mean": row["score"]["mean"] - cold["score"]["mean"],
            "ci95": list(gain),
        }
        for key in ("rmse", "rmse_executed"):
            rows[-1][f"{key}_ratio"] = cold[key] / max(row[key], 1e-12)
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    return [
        row["solver"],
        row["start"],
        row["noise"],
        f"{row['rmse']:.4f} ({row['rmse_ratio']:.1f}x)",
        "{:.3f} [{:.3f}, {:.3f}]".format(row["score"]["mean"], *row["score"]["ci95"]),
        "{:+.3f} [{:+.3f}, {:+.3f}]".format(row["gain"]["mean"], *row["gain"]["ci95"]),
        f"{row['seams']['jump']:.1f}",
        f"{row['seams']['jerk']:.0f}",
        f"{row['explained']['kept']:.3f}",
    ]


if __name__ == "__main__":
    main()
