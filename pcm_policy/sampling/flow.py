"""Samplers of flow matching: Euler along the straight path, and a second-order multistep."""

import torch
from torch import Tensor

from pcm_policy.sampling.affine import AffineSampler, unroll, unroll_multistep
from pcm_policy.sampling.config import SamplerConfig, sampler
from pcm_policy.sampling.multistep import dpm_coefficients
from pcm_policy.sampling.schedules import NoiseSchedule, flow_levels


def path(schedule: NoiseSchedule, config: SamplerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is visited, ``alpha = 1 - s`` and ``sigma = s``, each ``(N,)``.

    The network is shown ``t = s train_steps`` in float32, as in training.
    """
    sigma = flow_levels(schedule.train_steps, config.steps, config.spacing, config.shift)
    return (sigma * schedule.train_steps).float(), 1.0 - sigma, sigma


@sampler("flow_euler", flow=True)
def flow_euler(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of Euler steps.

    They follow ``v = (x - xhat) / s`` from ``s`` to ``s'``: ``x + (s' - s) v = (s'/s) x +
    (1 - s'/s) xhat`` (Liu et al. 2023, eq. 1).
    """
    return euler_steps(*path(schedule, config))


def euler_steps(visited: Tensor, alpha: Tensor, sigma: Tensor) -> AffineSampler:
    """Fill the affine form of Euler steps through these levels, ``(N,)``, and on to no noise."""
    decay = torch.cat([sigma[1:], sigma.new_zeros(1)]) / sigma
    zeros, ones = torch.zeros_like(decay), torch.ones_like(decay)
    return unroll(visited, alpha, sigma, decay, 1.0 - decay, zeros, ones)


@sampler("flow_2m", flow=True)
def flow_2m(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of DPM-Solver++ 2M with the path's levels."""
    visited, alpha, sigma = path(schedule, config)
    return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, 2))
