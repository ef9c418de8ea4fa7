"""What it costs to show a policy of two observations only those at which a chunk is asked for.

    python -m benchmarks.control.history [--episodes 100] [--policy released/pusht_mlp]

A client that asks once a chunk, as openpi's examples do, shows observations that are ``Ta`` control
steps apart; the policy was trained on those of consecutive steps. Push-T, paired episodes with the
same noise; intervals of the difference to consecutive observations.
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import pcm_policy.envs  # noqa: F401 (registers the environment)
from benchmarks import RESULTS
from pcm_policy import DiffusionPolicy
from pcm_policy.control import PlanRequest
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.statistics import bootstrap_mean_interval, paired_difference_interval
from pcm_policy.measure.tables import table
from pcm_policy.serving.planner import Planner

ENV, SEED = "pcm_policy/PushTKeypoints-v0", 100_000
WAYS = ("every step", "once a chunk", "the newest twice")
HEAD = ["observations that the policy sees", "score [95 %]", "difference [95 %]"]


def scores(planner: Planner, way: str, episodes: int) -> list[float]:
    """Return the best reward of every episode.

    Args:
        planner: solves.
        way: which observation stands before the newest one.
        episodes: side by side, all as long as the environment lets them be.
    """
    spec = planner.spec
    envs = [gym.make(ENV, disable_env_checker=True) for _ in range(episodes)]
    newest = [env.reset(seed=SEED + i)[0] for i, env in enumerate(envs)]
    before, best, over = list(newest), [-np.inf] * episodes, [False] * episodes
    none, tick = np.zeros((0, spec.action_dim), np.float32), 0
    while not all(over):
        pairs = [np.stack(pair).astype(np.float32) for pair in zip(before, newest, strict=True)]
        requests = [PlanRequest(i, SEED + i, tick, 0.0, obs, none) for i, obs in enumerate(pairs)]
        plans = planner.plan_batch(requests, None, episodes)
        asked = list(newest)
        for i, (env, plan) in enumerate(zip(envs, plans, strict=True)):
            for action in plan.actions[: spec.action_steps]:
                if over[i]:
                    break
                before[i] = newest[i]
                newest[i], reward, ended, cut, _ = env.step(action)
                best[i], over[i] = max(best[i], float(reward)), ended or cut
        before = {WAYS[0]: before, WAYS[1]: asked, WAYS[2]: list(newest)}[way]
        tick += spec.action_steps
    return best


def main() -> None:
    """Run and write ``history.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--output", type=Path, default=RESULTS / "history")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    planner, rows = Planner(policy), list[dict[str, Any]]()
    for way in WAYS:
        found = scores(planner, way, options.episodes)
        base = rows[0]["scores"] if rows else found
        low, high = bootstrap_mean_interval(found)
        off = paired_difference_interval(found, base)
        row = {"way": way, "score": float(np.mean(found)), "ci95": [low, high]}
        rows.append(row | {"difference_ci95": list(off), "scores": found})
    report = {"policy": options.policy, "solver": planner.solver.label, "rows": rows}
    write_text(options.output / "history.json", to_json(report | conditions(policy)))
    print(table(HEAD, list(map(cells, rows))))


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    low, high = row["ci95"]
    less, more = row["difference_ci95"]
    return [
        row["way"],
        f"{row['score']:.3f} [{low:.3f}, {high:.3f}]",
        f"[{less:+.3f}, {more:+.3f}]",
    ]


if __name__ == "__main__":
    main()
