"""Timesteps for few-step sampling, searched on a policy: what its parallel rounds have to beat.

A few-step sampler at well chosen timesteps is far ahead of the same one at an even spacing. The
search minimises the mean RMSE to the chunks of the sampler it stands for, on given observations.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcm_policy.measure.exactness import solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.search import Schedule, search
from pcm_policy.solvers.registry import Solver


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
    sample = solved(policy, Solver.of("sequential", sampler), obs, seed).sample
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
