"""The samplers that ship: a user's choice and a schedule fix every coefficient.

Each is an :class:`~pcm_policy.sampling.affine.AffineSampler`, ``X = p x_0 + S z + M xhat``: DDPM,
DDIM, DPM-Solver++ (:mod:`pcm_policy.sampling.multistep`), multistep consistency sampling and two
for flow matching. docs/affine.md has the derivations and shows how to add one.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from pcm_policy.checks import LARGEST, flag, number, whole
from pcm_policy.errors import PcmError
from pcm_policy.sampling.affine import AffineSampler, unroll, unroll_multistep
from pcm_policy.sampling.multistep import dpm_coefficients, solver_timesteps
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing, flow_levels, timesteps
from pcm_policy.settings import Count, Natural, Positive, Share

__all__ = ["AffineSampler", "SamplerConfig", "SamplerName", "build_sampler", "unroll"]

SamplerName = Literal[
    "ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "consistency", "flow_euler", "flow_2m"
]
FLOW_SAMPLERS = ("flow_euler", "flow_2m")
Previous = Literal["next", "ratio"]
Variance = Literal["fixed_small", "fixed_large"]


@dataclass(frozen=True)
class SamplerConfig:
    """What a user chooses about a sampler; together with a schedule it fixes every coefficient.

    Attributes:
        name: ``ddpm`` (Ho et al. 2020), ``ddim`` (Song et al. 2021), or DPM-Solver++ of second or
            third order, ``dpmpp_2m``, ``dpmpp_3m`` (:mod:`pcm_policy.sampling.multistep`); for a
            consistency model ``consistency`` (Song et al. 2023, algorithm 1: denoise, add noise
            again); with the schedule ``flow``, ``flow_euler`` or the second-order multistep
            ``flow_2m``.
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
        shift: a flow's timestep shift (Esser et al. 2024, eq. 23); above one, more steps at high
            noise.
        timesteps: the ``N`` training timesteps themselves, descending, in place of ``spacing``.
        temperature: all drawn noise is multiplied by this: 1 samples what the policy learnt, less
            samples nearer to its modes (Ajay et al. 2023), at 0 what is seen decides the chunk.

    Raises:
        PcmError: an unknown name, a value out of range, or a setting that the sampler has not.
    """

    name: SamplerName = "ddim"
    steps: Count = 16
    spacing: Spacing = "trailing"
    eta: Share = 0.0
    previous: Previous = "next"
    offset: Natural = 0
    final_alpha_one: bool = True
    rederive_epsilon: bool = True
    variance: Variance = "fixed_small"
    shift: Positive = 1.0
    timesteps: tuple[Natural, ...] | None = None
    temperature: Share = 1.0

    def __post_init__(self) -> None:
        self._check_types()
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
        if not 0 < self.shift < float("inf"):
            raise PcmError(f"sampler shift={self.shift}: use a value above 0; 1 shifts nothing")
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", tuple(self.timesteps))  # JSON gives a list
            self._check_timesteps(self.timesteps)
        self._check_unused()

    @property
    def label(self) -> str:
        """Short name for tables, such as ``ddim-16`` or ``ddim-32 eta 1 at 0.3``."""
        noisy = f" eta {self.eta:g}" if self.eta and self.name == "ddim" else ""
        cool = f" at {self.temperature:g}" if self.temperature != 1 else ""
        return f"{self.name}-{self.steps}{noisy}{cool}"

    def _check_types(self) -> None:
        """Refuse a value of another type or out of range, as a file may hold one."""
        whole("sampler steps", self.steps, -LARGEST)  # how few and how many, the schedule says
        whole("sampler offset", self.offset, -LARGEST)
        number("sampler eta", self.eta, 0, 1)
        number("sampler temperature", self.temperature, 0, 1)
        number("sampler shift", self.shift, finite=False)
        for name in ("final_alpha_one", "rederive_epsilon"):
            flag(f"sampler {name}", getattr(self, name))
        if self.timesteps is not None:
            if not isinstance(self.timesteps, tuple | list):
                raise PcmError(f"sampler timesteps={self.timesteps!r}: use a list of timesteps")
            for value in self.timesteps:
                whole("sampler timesteps", value, -LARGEST)

    def _check_timesteps(self, given: tuple[int, ...]) -> None:
        falling = all(a > b for a, b in pairwise(given))
        if len(given) != self.steps or not falling or given[-1] < 0:
            raise PcmError(
                f"sampler timesteps={list(given)}: give steps={self.steps} descending training "
                "timesteps, none below 0"
            )
        if self.previous != "next" or self.name in FLOW_SAMPLERS:
            raise PcmError(
                f"sampler timesteps={list(given)} with {self.name}, previous={self.previous}: "
                "chosen timesteps land on the next one, and a flow has none"
            )

    def _check_unused(self) -> None:
        """Refuse settings that would have no effect, rather than ignore what a user asked for."""
        flow = self.name in FLOW_SAMPLERS
        if self.shift != 1 and not flow:
            raise PcmError(f"sampler shift={self.shift} is for flows: {self.name} takes shift=1")
        if self.name in ("ddpm", "ddim"):
            return
        if self.eta or self.previous != "next" or (flow and self.offset):
            raise PcmError(
                f"sampler {self.name} has no eta and lands where it evaluates next: use "
                f"eta=0, previous=next{', offset=0' if flow else ''}"
            )


def build_sampler(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of a sampler, in float64.

    Raises:
        PcmError: a sampler that does not belong to the schedule, more steps than it was trained
            with, or an invalid spacing.
    """
    full, share = _at_full_temperature(schedule, config), config.temperature
    return replace(full, p=share * full.p, S=share * full.S, noise=share * full.noise)


def _at_full_temperature(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    if (config.name in FLOW_SAMPLERS) != schedule.is_flow:
        fitting = [n for n in get_args(SamplerName) if (n in FLOW_SAMPLERS) == schedule.is_flow]
        raise PcmError(
            f"sampler {config.name} does not belong to noise schedule {schedule.name}: use one of "
            f"{', '.join(fitting)}"
        )
    if schedule.is_flow:
        return _flow(schedule, config)
    abar = schedule.alphas_cumprod()
    visited = _visited(schedule, config)
    if config.name in ("dpmpp_2m", "dpmpp_3m"):
        order = 2 if config.name == "dpmpp_2m" else 3
        alpha, sigma = abar[visited].sqrt(), (1 - abar[visited]).sqrt()
        return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, order))
    if config.previous == "ratio":
        previous = visited - schedule.train_steps // config.steps
    else:
        previous = torch.cat([visited[1:], visited.new_tensor([-1])])
    last = abar[0] if config.name == "ddim" and not config.final_alpha_one else abar.new_tensor(1.0)
    abar_now = abar[visited]
    abar_next = torch.where(previous >= 0, abar[previous.clamp(min=0)], last)
    if config.name == "consistency":
        coefficients = _consistency(abar_next)
    elif config.name == "ddim":
        coefficients = _ddim(config, abar_now, abar_next)
    else:
        coefficients = _ddpm(config, visited, abar_now, abar_next)
    return unroll(visited, abar_now.sqrt(), (1 - abar_now).sqrt(), *coefficients)


def _visited(schedule: NoiseSchedule, config: SamplerConfig) -> Tensor:
    if config.timesteps is not None:
        if config.timesteps[0] >= schedule.train_steps:
            raise PcmError(
                f"sampler timesteps={list(config.timesteps)}: this policy was trained with "
                f"timesteps 0 to {schedule.train_steps - 1}"
            )
        return torch.tensor(config.timesteps)
    spaced = solver_timesteps if config.name in ("dpmpp_2m", "dpmpp_3m") else timesteps
    return spaced(schedule.train_steps, config.steps, config.spacing, config.offset)


def _flow(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Euler along the straight path, or DPM-Solver++ 2M with ``alpha = 1 - s, sigma = s``.

    Euler follows ``v = (x - xhat) / s`` from ``s`` to ``s'``: ``x + (s' - s) v = (s'/s) x +
    (1 - s'/s) xhat`` (Liu et al. 2023, eq. 1). The network is shown ``t = s train_steps`` in
    float32, as in training.
    """
    sigma = flow_levels(schedule.train_steps, config.steps, config.spacing, config.shift)
    visited, alpha = (sigma * schedule.train_steps).float(), 1.0 - sigma
    if config.name == "flow_2m":
        return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, 2))
    decay = torch.cat([sigma[1:], sigma.new_zeros(1)]) / sigma
    zeros, ones = torch.zeros_like(decay), torch.ones_like(decay)
    return unroll(visited, alpha, sigma, decay, 1.0 - decay, zeros, ones)


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


def _consistency(abar_next: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Song et al. 2023, algorithm 1: the predicted chunk with fresh noise, nothing of the state."""
    gain, noise = abar_next.sqrt(), (1 - abar_next).sqrt()
    return torch.zeros_like(gain), gain, noise, torch.ones_like(gain)


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
