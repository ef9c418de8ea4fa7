"""The best schedule of a few-step sampler: three spacings and a searched one, on other seeds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pcm_study_rows import FEW_STEPS, play, rmse
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.exactness import solved
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

TUNING_SEED = 500_000
DRAWN, MOVES, SWEEPS = 32, (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16), 3
Schedule = tuple[int, ...]


def search(
    cost: Callable[[Schedule], float], start: list[Schedule], train_steps: int, seed: int
) -> tuple[Schedule, float]:
    """Look for the timesteps of least cost: random draws, then one timestep at a time.

    Args:
        cost: what a descending schedule costs.
        start: schedules to begin with, all of one length.
        train_steps: timesteps are below this.
        seed: of the draws.

    Returns:
        The best schedule found and its cost.
    """
    rng, steps = np.random.default_rng(seed), len(start[0])
    drawn = [
        tuple(sorted(rng.choice(train_steps, steps, replace=False).tolist(), reverse=True))
        for _ in range(DRAWN)
    ]
    known = {schedule: cost(schedule) for schedule in [*start, *drawn]}
    best = min(known, key=lambda s: known[s])
    for _ in range(SWEEPS):
        before = best
        for i in range(steps):
            for move in MOVES:
                moved = {*best[:i], *best[i + 1 :], best[i] + move}
                tried = tuple(sorted(moved, reverse=True))
                if len(tried) < steps or tried[0] >= train_steps or tried[-1] < 0:
                    continue
                if tried not in known:
                    known[tried] = cost(tried)
            best = min(known, key=lambda s: known[s])
        if best == before:
            break
    return best, known[best]


def candidates(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
) -> dict[str, SamplerConfig]:
    """Return the three spacings that there are and the searched schedule, by name.

    The search minimises the mean RMSE to the base chunk on ``obs``, which no episode or held-out
    observation that is reported has a part in.
    """
    assert base.config.head is not None
    exact = solved(base, SolverConfig("sequential", base.config.head.sampler), obs, TUNING_SEED)
    found: dict[str, SamplerConfig] = {}
    for spacing in ("trailing", "linspace", "leading"):
        sampler = SamplerConfig(FEW_STEPS[family], steps, spacing)  # type: ignore[arg-type]
        try:
            policy.sampler(sampler)
        except PcmError:  # so many steps of this spacing do not fit
            continue
        found[spacing] = sampler
    start = [tuple(policy.sampler(s).timesteps.tolist()) for s in found.values()]

    def cost(schedule: Schedule) -> float:
        tried = replace(found["trailing"], timesteps=schedule)
        return float(rmse(policy, tried, obs, exact.sample, TUNING_SEED).mean())

    best, _ = search(cost, start, policy.config.schedule.train_steps, steps)
    found["searched"] = replace(found["trailing"], timesteps=best)
    return found


def best_sampler(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
    episodes: int,
    kept: Path,
) -> tuple[SamplerConfig, dict[str, Any]]:
    """Choose a schedule by its mean score on episodes from ``TUNING_SEED``.

    Returns:
        The sampler, and for every candidate its timesteps and score.
    """
    tried, scores = candidates(policy, base, family, steps, obs), {}
    for name, sampler in tried.items():
        played = play(policy, SolverConfig("sequential", sampler), episodes, TUNING_SEED, kept)
        scores[name] = float(np.mean(played.scores))
    best = max(scores, key=lambda name: scores[name])
    record = {
        name: {"timesteps": policy.sampler(sampler).timesteps.tolist(), "score": scores[name]}
        for name, sampler in tried.items()
    }
    return tried[best], {"chosen": best, "candidates": record}


def visited_observations(policy: DiffusionPolicy, episodes: int) -> Tensor:
    """Return up to 256 observations that the base visits in episodes from ``TUNING_SEED``."""
    from pcm_policy.evaluate import evaluate
    from pcm_policy.rollout_policy import EpisodePolicy

    assert policy.config.head is not None
    runner = EpisodePolicy(policy, SolverConfig("sequential", policy.config.head.sampler))
    evaluate(
        runner,
        "pcm_policy/PushTKeypoints-v0",
        episodes=episodes,
        seed=TUNING_SEED,
        n_obs_steps=policy.config.obs_steps,
        num_envs=1,
        solve_batch=1,
    )
    return torch.from_numpy(runner.observations())
