"""The affine form of a sampler, ``X = F + M D(X)``, and how one is made from its steps.

States run from noise to data: ``x_0`` is Gaussian noise, ``x_N`` the action chunk. A one-step
sampler moves by ``x_{j+1} = a_j x_j + b_j xhat_j + s_j z_j``; unrolled over all steps it is
``X = p x_0 + S z + M xhat`` with ``M`` strictly lower triangular (docs/affine.md has the
derivation; ParaTAA, Tang et al. 2024, calls this the full-order system).

A sampler of your own fills ``decay, gain, noise`` and calls :func:`unroll`, or
:func:`unroll_multistep` where a step uses earlier predictions too.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AffineSampler:
    """Coefficients of ``X = p x_0 + S z + M xhat`` for ``N`` steps.

    Attributes:
        timesteps: ``(N,)`` training timestep shown to the network at state ``j``: int64, for a flow
            floating.
        alpha: ``(N,)`` signal level at that timestep.
        sigma: ``(N,)`` noise level at that timestep.
        clip_gain: ``(N,)``; the sampler is affine in ``xhat + clip_gain (clip(xhat) - xhat)``.
        decay: ``(N,)`` one-step coefficient of the state, ``a_j``.
        gain: ``(N,)`` one-step coefficient of the prediction, ``b_j``.
        noise: ``(N,)`` one-step coefficient of the noise, ``s_j``.
        p: ``(N + 1,)`` share of the initial noise in every state.
        S: ``(N + 1, N)`` share of each step's noise, strictly lower triangular.
        M: ``(N + 1, N)`` share of each prediction, strictly lower triangular.
        stochastic: whether any step adds noise.
        replaces: whether every ``clip_gain`` is 1: a clipped prediction takes the other's place.
        one_step: whether a step uses its own prediction alone, as ``decay, gain, noise`` say. A
            multistep sampler uses earlier ones too: then only ``p, S, M`` describe it.

    Example:
        >>> from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 8))
        >>> sampler.M.shape, bool(sampler.M.triu().any()), sampler.stochastic
        (torch.Size([9, 8]), False, False)
    """

    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    clip_gain: Tensor
    decay: Tensor
    gain: Tensor
    noise: Tensor
    p: Tensor
    S: Tensor
    M: Tensor
    stochastic: bool
    replaces: bool = False
    one_step: bool = True

    @property
    def steps(self) -> int:
        """Number of denoising steps ``N``."""
        return self.timesteps.shape[0]

    @property
    def noise_steps(self) -> int:
        """Number of noises that are drawn beside the initial one: 0 if it is deterministic."""
        return self.steps if self.stochastic else 0

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "AffineSampler":
        """Return a copy whose coefficients lie on ``device`` in ``dtype``."""
        moved: dict[str, Any] = {
            name: value.to(device=device, dtype=value.dtype if name == "timesteps" else dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def clean_predictions(sampler: AffineSampler, states: Tensor, fixed_part: Tensor) -> Tensor:
    """Invert ``X = F + M x_hat`` for the predictions behind a trajectory.

    ``M`` is lower triangular below its first row, so this is one small triangular solve.

    Args:
        sampler: gives ``M``.
        states: ``(N + 1, B, T, Da)`` the trajectory ``X``.
        fixed_part: ``F`` of the same shape.

    Returns:
        ``(N, B, T, Da)``.
    """
    off = (states - fixed_part)[1:].flatten(1).double()
    found = torch.linalg.solve_triangular(sampler.M[1:].double(), off, upper=False)
    predictions: Tensor = found.to(states.dtype).view_as(states[1:])
    return predictions


def unroll(
    visited: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    decay: Tensor,
    gain: Tensor,
    noise: Tensor,
    clip_gain: Tensor,
) -> AffineSampler:
    """Unroll one-step coefficients, each ``(N,)``, into the affine form over all states."""
    steps = visited.shape[0]
    p = decay.new_ones(steps + 1)
    S, M = decay.new_zeros(steps + 1, steps), decay.new_zeros(steps + 1, steps)
    for j in range(steps):
        p[j + 1] = decay[j] * p[j]
        S[j + 1], M[j + 1] = decay[j] * S[j], decay[j] * M[j]
        S[j + 1, j], M[j + 1, j] = noise[j], gain[j]
    told = bool((noise > 0).any()), bool((clip_gain == 1).all())
    return AffineSampler(visited, alpha, sigma, clip_gain, decay, gain, noise, p, S, M, *told)


def unroll_multistep(
    visited: Tensor, alpha: Tensor, sigma: Tensor, decay: Tensor, gains: Tensor
) -> AffineSampler:
    """Unroll ``x_{j+1} = decay_j x_j + sum_i gains_{j,i} xhat_{j-i}`` over all states.

    Args:
        visited: ``(N,)`` training timesteps.
        alpha: ``(N,)`` signal levels.
        sigma: ``(N,)`` noise levels.
        decay: ``(N,)``.
        gains: ``(N, order)``; zero where ``i > j``.
    """
    steps, order = gains.shape
    zeros = torch.zeros_like(decay)
    first = unroll(visited, alpha, sigma, decay, zeros, zeros, torch.ones_like(decay))
    M = decay.new_zeros(steps + 1, steps)
    for j in range(steps):
        M[j + 1] = decay[j] * M[j]
        for i in range(min(order, j + 1)):
            M[j + 1, j - i] += gains[j, i]
    return replace(first, gain=gains[:, 0], M=M, one_step=False)
