"""Multistep sampling of a consistency model (Song et al. 2023)."""

import torch

from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SamplerConfig, levels, sampler, visited_timesteps
from pcm_policy.sampling.schedules import NoiseSchedule


@sampler("consistency")
def consistency(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form: algorithm 1, the predicted chunk with fresh noise, nothing else."""
    visited = visited_timesteps(schedule, config)
    abar_now, abar_next = levels(schedule, config, visited)
    gain, noise = abar_next.sqrt(), (1 - abar_next).sqrt()
    coefficients = torch.zeros_like(gain), gain, noise, torch.ones_like(gain)
    return unroll(visited, abar_now.sqrt(), (1 - abar_now).sqrt(), *coefficients)
