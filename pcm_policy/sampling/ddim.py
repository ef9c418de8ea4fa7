"""DDIM: deterministic steps, or noisy ones (Song et al. 2021)."""

import torch
from torch import Tensor

from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SamplerConfig, levels, sampler, visited_timesteps
from pcm_policy.sampling.schedules import NoiseSchedule


@sampler("ddim", steps_anywhere=True)
def ddim(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form: eq. 12 and 16."""
    visited = visited_timesteps(schedule, config)
    last = 1.0 if config.final_alpha_one else schedule.alphas_cumprod()[0]
    abar_now, abar_next = levels(schedule, config, visited, last)
    return ddim_steps(visited, abar_now, abar_next, config.eta, config.rederive_epsilon)


def ddim_steps(
    visited: Tensor, abar_now: Tensor, abar_next: Tensor, eta: float, rederive_epsilon: bool
) -> AffineSampler:
    """Fill the affine form of steps from ``abar_now`` to ``abar_next``, both ``(N,)`` float64."""
    variance = (1 - abar_next) / (1 - abar_now) * (1 - abar_now / abar_next)
    noise = eta * variance.clamp(min=0).sqrt()
    direction = (1 - abar_next - noise**2).clamp(min=0).sqrt()
    decay = direction / (1 - abar_now).sqrt()
    gain = abar_next.sqrt() - decay * abar_now.sqrt()
    clip_gain = torch.ones_like(gain)
    if not rederive_epsilon:
        # A last step from abar_0 to abar_0 has gain 0, yet clipping still moves it.
        gain = gain.clamp(min=1e-12)
        clip_gain = abar_next.sqrt() / gain
    coefficients = decay, gain, noise, clip_gain
    return unroll(visited, abar_now.sqrt(), (1 - abar_now).sqrt(), *coefficients)
