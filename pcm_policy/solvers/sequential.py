"""Sequential sampling: forward substitution in the triangular system, one network call a step."""

import torch

from pcm_policy.denoise import Denoiser
from pcm_policy.noise import Noise
from pcm_policy.solvers.base import SolveResult, combine, forcing


def sequential(denoise: Denoiser, noise: Noise) -> SolveResult:
    """Solve ``X = F + M D(X)`` state by state: the sampler as everybody runs it.

    No round revises a state, so all residuals are zero and the result is certified by definition.

    Args:
        denoise: the map ``D``, with its sampler.
        noise: ``initial (B, T, Da)``, and ``steps (N, B, T, Da)`` for stochastic samplers.
    """
    denoise, sampler = denoise.encode(), denoise.sampler
    states = forcing(sampler, noise)
    predictions = torch.zeros_like(states[1:])
    for j in range(sampler.steps):
        predictions[j] = denoise(states[j : j + 1], slice(j, j + 1))[0]
        states[j + 1] += combine(sampler.M[j + 1 : j + 2, : j + 1], predictions[: j + 1])[0]
    batch = states.shape[1]
    return SolveResult(
        sample=states[-1],
        rounds=sampler.steps,
        nfe=sampler.steps,
        residuals=states.new_zeros(sampler.steps, batch),
        certified=torch.ones(batch, dtype=torch.bool, device=states.device),
        bound=states.new_zeros(batch),
        trajectory=states,
    )
