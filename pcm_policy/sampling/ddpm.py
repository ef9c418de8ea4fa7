"""DDPM: the posterior mean and its noise (Ho et al. 2020)."""

import torch
from torch import Tensor

from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SamplerConfig, Variance, levels, sampler, visited_timesteps
from pcm_policy.sampling.schedules import NoiseSchedule


@sampler("ddpm", steps_anywhere=True)
def ddpm(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form: eq. 7, the posterior mean, and one of its two standard variances."""
    visited = visited_timesteps(schedule, config)
    return ddpm_steps(visited, *levels(schedule, config, visited), config.variance)


def ddpm_steps(
    visited: Tensor, abar_now: Tensor, abar_next: Tensor, variance_type: Variance
) -> AffineSampler:
    """Fill the affine form of steps from ``abar_now`` to ``abar_next``, both ``(N,)`` float64."""
    step_alpha = abar_now / abar_next
    decay = step_alpha.sqrt() * (1 - abar_next) / (1 - abar_now)
    gain = abar_next.sqrt() * (1 - step_alpha) / (1 - abar_now)
    variance = 1 - step_alpha
    if variance_type == "fixed_small":
        variance = (variance * (1 - abar_next) / (1 - abar_now)).clamp(min=1e-20)
    noise = torch.where(visited > 0, variance.sqrt(), torch.zeros_like(variance))
    coefficients = decay, gain, noise, torch.ones_like(gain)
    return unroll(visited, abar_now.sqrt(), (1 - abar_now).sqrt(), *coefficients)
