"""Samplers as affine maps of clean-chunk predictions: ``X = F + M D(X)``.

States run from noise to data: ``x_0`` is Gaussian noise, ``x_N`` the action chunk. A one-step
sampler moves by ``x_{j+1} = a_j x_j + b_j xhat_j + s_j z_j``; unrolled over all steps it is
``X = p x_0 + S z + M xhat`` with ``M`` strictly lower triangular (docs/affine.md has the
derivation; ParaTAA, Tang et al. 2024, calls this the full-order system).

A sampler of your own is a function that fills ``decay, gain, noise`` and calls :func:`unroll`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.multistep import dpm_coefficients, solver_timesteps
from pcm_policy.schedules import NoiseSchedule, Spacing, flow_levels, timesteps

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "flow_euler", "flow_2m"]
Previous = Literal["next", "ratio"]
Variance = Literal["fixed_small", "fixed_large"]


@dataclass(frozen=True)
class SamplerConfig:
    """What a user chooses about a sampler; together with a schedule it fixes every coefficient.

    Attributes:
        name: ``ddpm`` (Ho et al. 2020), ``ddim`` (Song et al. 2021), or DPM-Solver++ of second or
            third order, ``dpmpp_2m``, ``dpmpp_3m`` (:mod:`pcm_policy.multistep`); with the schedule
            ``flow``, ``flow_euler`` or the second-order multistep ``flow_2m``.
        steps: number of denoising steps ``N``.
        spacing: which training timesteps are visited.
        eta: DDIM's noise: 0 is deterministic, 1 has DDPM's variance.
        previous: the timestep that step ``j`` lands on. ``next``: the one that step ``j + 1``
            evaluates (consistent). ``ratio``: ``t - train_steps // N`` whatever the spacing, as
            diffusers' DDIM does; needed to reproduce policies made with it.
        offset: added to ``leading`` timesteps.
        final_alpha_one: DDIM's last step lands on ``abar = 1`` rather than on ``abar_0``.
        rederive_epsilon: after clipping the predicted chunk, compute the noise from the clipped
            chunk (diffusers' ``use_clipped_model_output``). DDPM has no such choice.
        variance: DDPM's step variance.
        shift: a flow's timestep shift.
    """

    name: SamplerName = "ddim"
    steps: int = 16
    spacing: Spacing = "trailing"
    eta: float = 0.0
    previous: Previous = "next"
    offset: int = 0
    final_alpha_one: bool = True
    rederive_epsilon: bool = True
    variance: Variance = "fixed_small"
    shift: float = 1.0

    def __post_init__(self) -> None:
        for field, allowed in (
            ("name", get_args(SamplerName)),
            ("spacing", get_args(Spacing)),
            ("previous", get_args(Previous)),
            ("variance", get_args(Variance)),
        ):
            if getattr(self, field) not in allowed:
                raise PcmError(
                    f"sampler {field}={getattr(self, field)!r}: use one of {', '.join(allowed)}"
                )
        if not 0 <= self.eta <= 1:
            raise PcmError(f"sampler eta={self.eta}: use a value from 0 to 1")
        if self.shift <= 0:
            raise PcmError(f"sampler shift={self.shift}: must be above zero")


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
        one_step: whether a step uses its own prediction alone, as ``decay, gain, noise`` say. A
            multistep sampler uses earlier ones too: then only ``p, S, M`` describe it.
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
    one_step: bool = True

    @property
    def steps(self) -> int:
        """Number of denoising steps ``N``."""
        return self.timesteps.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "AffineSampler":
        """Return a copy whose coefficients lie on ``device`` in ``dtype``."""
        moved: dict[str, Any] = {
            name: value.to(device=device, dtype=value.dtype if name == "timesteps" else dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def build_sampler(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of a sampler, in float64.

    Raises:
        PcmError: more steps than the schedule was trained with, or an invalid spacing.
    """
    flow = config.name in ("flow_euler", "flow_2m")
    if flow != (schedule.name == "flow"):
        raise PcmError(
            f"sampler {config.name} does not belong to noise schedule {schedule.name}: flow_euler "
            "and flow_2m are for schedule=flow, all others for the rest"
        )
    if flow:
        sigma = flow_levels(schedule.train_steps, config.steps, config.spacing, config.shift)
        visited, alpha = sigma * schedule.train_steps, 1.0 - sigma
        if config.name == "flow_2m":
            return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, 2))
        decay = torch.cat([sigma[1:], sigma.new_zeros(1)]) / sigma
        none = torch.zeros_like(decay)
        return unroll(visited, alpha, sigma, decay, 1.0 - decay, none, torch.ones_like(decay))
    abar = schedule.alphas_cumprod()
    if config.name in ("dpmpp_2m", "dpmpp_3m"):
        visited = solver_timesteps(
            schedule.train_steps, config.steps, config.spacing, config.offset
        )
        order = 2 if config.name == "dpmpp_2m" else 3
        alpha, sigma = abar[visited].sqrt(), (1 - abar[visited]).sqrt()
        return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, order))
    visited = timesteps(schedule.train_steps, config.steps, config.spacing, config.offset)
    if config.previous == "ratio":
        previous = visited - schedule.train_steps // config.steps
    else:
        previous = torch.cat([visited[1:], visited.new_tensor([-1])])
    last = abar[0] if config.name == "ddim" and not config.final_alpha_one else abar.new_tensor(1.0)
    abar_now = abar[visited]
    abar_next = torch.where(previous >= 0, abar[previous.clamp(min=0)], last)
    coefficients = _ddpm(config, visited, abar_now, abar_next)
    if config.name == "ddim":
        coefficients = _ddim(config, abar_now, abar_next)
    return unroll(visited, abar_now.sqrt(), (1 - abar_now).sqrt(), *coefficients)


def _ddpm(
    config: SamplerConfig, visited: Tensor, abar_now: Tensor, abar_next: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ho et al. 2020, eq. 7: the posterior mean, and one of its two standard variances."""
    step_alpha = abar_now / abar_next
    decay = step_alpha.sqrt() * (1 - abar_next) / (1 - abar_now)
    gain = abar_next.sqrt() * (1 - step_alpha) / (1 - abar_now)
    variance = 1 - step_alpha
    if config.variance == "fixed_small":
        variance = (variance * (1 - abar_next) / (1 - abar_now)).clamp(min=1e-20)
    noise = torch.where(visited > 0, variance.sqrt(), torch.zeros_like(variance))
    return decay, gain, noise, torch.ones_like(gain)


def _ddim(
    config: SamplerConfig, abar_now: Tensor, abar_next: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Song et al. 2021, eq. 12 and 16."""
    variance = (1 - abar_next) / (1 - abar_now) * (1 - abar_now / abar_next)
    noise = config.eta * variance.clamp(min=0).sqrt()
    direction = (1 - abar_next - noise**2).clamp(min=0).sqrt()
    decay = direction / (1 - abar_now).sqrt()
    gain = abar_next.sqrt() - decay * abar_now.sqrt()
    if config.rederive_epsilon:
        return decay, gain, noise, torch.ones_like(gain)
    # A last step from abar_0 to abar_0 has gain 0, yet clipping still moves it: keep it divisible.
    gain = gain.clamp(min=1e-12)
    return decay, gain, noise, abar_next.sqrt() / gain


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
    return AffineSampler(
        visited, alpha, sigma, clip_gain, decay, gain, noise, p, S, M, bool((noise > 0).any())
    )


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
