"""DPM-Solver++ of second and third order (Lu et al. 2022)."""

from functools import partial

from pcm_policy.sampling.affine import AffineSampler, unroll_multistep
from pcm_policy.sampling.config import SamplerConfig, sampler, visited_timesteps
from pcm_policy.sampling.multistep import dpm_coefficients, solver_timesteps
from pcm_policy.sampling.schedules import NoiseSchedule


def dpmpp(schedule: NoiseSchedule, config: SamplerConfig, order: int) -> AffineSampler:
    """Fill the affine form; :mod:`pcm_policy.sampling.multistep` has the coefficients."""
    visited = visited_timesteps(schedule, config, solver_timesteps)
    abar = schedule.alphas_cumprod()[visited]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, order))


sampler("dpmpp_2m")(partial(dpmpp, order=2))
sampler("dpmpp_3m")(partial(dpmpp, order=3))
