"""Timesteps for few-step sampling, searched on a policy: what its parallel rounds have to beat.

A few-step sampler at well chosen timesteps is far ahead of the same one at an even spacing. The
search minimises the mean RMSE to the chunks of the sampler it stands for, on given observations.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pcm_policy.measure.exactness import solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.solve import SolverConfig

DRAWN, MOVES, SWEEPS = 32, (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16), 3
Schedule = tuple[int, ...]


def search(
    cost: Callable[[Schedule], float], start: Sequence[Schedule], train_steps: int, seed: int
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


@torch.inference_mode()
def rmse(
    policy: DiffusionPolicy, sampler: SamplerConfig, obs: Tensor, exact: Tensor, seed: int
) -> Tensor:
    """Return ``(n,)`` RMSE of a sampler's sequential chunks to given ones, normalised.

    Args:
        policy: the policy.
        sampler: the sampler.
        obs: ``(n, To, Do)`` raw observations.
        exact: ``(n, T, Da)`` chunks with the noise of ``seed``, normalised.
        seed: of the noise.
    """
    sample = solved(policy, SolverConfig("sequential", sampler), obs, seed).sample
    return (sample - exact).square().mean(dim=(1, 2)).sqrt().cpu()


def searched(
    policy: DiffusionPolicy,
    start: Sequence[SamplerConfig],
    obs: Tensor,
    exact: Tensor,
    seed: int,
) -> SamplerConfig:
    """Return the first of ``start`` at the timesteps of least mean RMSE to ``exact``.

    Args:
        policy: the policy that samples.
        start: one sampler at several spacings, all with the same number of steps.
        obs: ``(n, To, Do)`` raw observations; errors should be reported on others.
        exact: ``(n, T, Da)`` the chunks that are wanted, with the noise of ``seed``.
        seed: of the noise; the number of steps is the seed of the search.
    """
    schedules = [tuple(policy.sampler(s).timesteps.tolist()) for s in start]

    def cost(schedule: Schedule) -> float:
        tried = replace(start[0], timesteps=schedule)
        return float(rmse(policy, tried, obs, exact, seed).mean())

    train_steps = policy.config.schedule.train_steps
    best, _ = search(cost, schedules, train_steps, start[0].steps)
    return replace(start[0], timesteps=best)
