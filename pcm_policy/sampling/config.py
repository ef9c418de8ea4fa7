"""What a user chooses about a sampler, and the samplers by name."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from pcm_policy.checks import LARGEST, flag, number, whole
from pcm_policy.errors import PcmError
from pcm_policy.registry import Registry
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing, timesteps
from pcm_policy.settings import Count, Natural, Positive, Share

Previous = Literal["next", "ratio"]
Variance = Literal["fixed_small", "fixed_large"]
Build = Callable[[NoiseSchedule, "SamplerConfig"], AffineSampler]
"""Fills the affine form, in float64, at full temperature."""
Spaced = Callable[[int, int, Spacing, int], Tensor]


@dataclass(frozen=True)
class Sampler:
    """A kind of sampler.

    Attributes:
        build: fills the affine form.
        flow: whether it samples flows; otherwise it samples the other schedules.
        steps_anywhere: whether it has the settings ``eta`` and ``previous``.

    Example:
        >>> from pcm_policy.sampling.samplers import SAMPLERS
        >>> SAMPLERS.find("flow_euler").flow
        True
    """

    build: Build
    flow: bool = False
    steps_anywhere: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler)


def sampler(
    name: str, *, flow: bool = False, steps_anywhere: bool = False
) -> Callable[[Build], Build]:
    """Return a decorator that registers a function as a sampler; see :class:`Sampler`."""

    def register(build: Build) -> Build:
        SAMPLERS.add(name)(Sampler(build, flow, steps_anywhere))
        return build

    return register


@dataclass(frozen=True)
class SamplerConfig:
    """What a user chooses about a sampler; together with a schedule it fixes every coefficient.

    Attributes:
        name: one of :data:`SAMPLERS`, each a file beside this one.
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
        follows: for ``flow_adams``, the Euler steps whose chunk is wanted; 0 for the flow's own
            end, which a loop of more and more Euler steps comes near.
        timesteps: the ``N`` training timesteps themselves, descending, in place of ``spacing``.
        temperature: factor on all drawn noise. 1 samples the learnt distribution, a smaller factor
            nearer to its modes (Ajay et al. 2023); with 0 the observation determines the chunk.

    Raises:
        PcmError: an unknown name, a value out of range, or a setting that the sampler has not.

    Example:
        >>> SamplerConfig("ddim", 32, eta=1.0, temperature=0.1).label
        'ddim-32 eta 1 at 0.1'
    """

    name: str = "ddim"
    steps: Count = 16
    spacing: Spacing = "trailing"
    eta: Share = 0.0
    previous: Previous = "next"
    offset: Natural = 0
    final_alpha_one: bool = True
    rederive_epsilon: bool = True
    variance: Variance = "fixed_small"
    shift: Positive = 1.0
    follows: Natural = 0
    timesteps: tuple[Natural, ...] | None = None
    temperature: Share = 1.0

    def __post_init__(self) -> None:
        self._check_types()
        for field, allowed in (
            ("name", tuple(SAMPLERS)),
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
        of = f" of {self.follows}" if self.follows else ""
        return f"{self.name}-{self.steps}{of}{noisy}{cool}"

    def _check_types(self) -> None:
        """Refuse a value of another type or out of range, as a file may hold one."""
        whole("sampler steps", self.steps, -LARGEST)  # how few and how many, the schedule says
        whole("sampler offset", self.offset, -LARGEST)
        number("sampler eta", self.eta, 0, 1)
        number("sampler temperature", self.temperature, 0, 1)
        number("sampler shift", self.shift, finite=False)
        for name in ("final_alpha_one", "rederive_epsilon"):
            flag(f"sampler {name}", getattr(self, name))
        whole("sampler follows", self.follows, 0)
        if self.timesteps is not None:
            if not isinstance(self.timesteps, tuple | list):
                raise PcmError(f"sampler timesteps={self.timesteps!r}: use a list of timesteps")
            for value in self.timesteps:
                whole("sampler timesteps", value, -LARGEST)

    def _check_timesteps(self, given: tuple[int, ...]) -> None:
        falling = all(a > b for a, b in pairwise(given))
        if not given or len(given) != self.steps or not falling or given[-1] < 0:
            raise PcmError(
                f"sampler timesteps={list(given)}: give steps={self.steps} descending training "
                "timesteps, none below 0"
            )
        if self.previous != "next" or SAMPLERS.find(self.name).flow:
            raise PcmError(
                f"sampler timesteps={list(given)} with {self.name}, previous={self.previous}: "
                "chosen timesteps land on the next one, and a flow has none"
            )

    def _check_unused(self) -> None:
        """Refuse settings that would have no effect, rather than ignore what a user asked for."""
        kind = SAMPLERS.find(self.name)
        if self.shift != 1 and not kind.flow:
            raise PcmError(f"sampler shift={self.shift} is for flows: {self.name} takes shift=1")
        if self.follows and self.name != "flow_adams":
            raise PcmError(
                f"sampler follows={self.follows} is for flow_adams: {self.name} takes follows=0"
            )
        if not kind.steps_anywhere and (
            self.eta or self.previous != "next" or (kind.flow and self.offset)
        ):
            raise PcmError(
                f"sampler {self.name} has no eta and lands where it evaluates next: use "
                f"eta=0, previous=next{', offset=0' if kind.flow else ''}"
            )


def visited_timesteps(
    schedule: NoiseSchedule, config: SamplerConfig, spaced: Spaced = timesteps
) -> Tensor:
    """Return the ``(N,)`` training timesteps that a sampler visits: chosen ones, or by spacing.

    Raises:
        PcmError: a chosen one that the policy was not trained with.
    """
    if config.timesteps is not None:
        if config.timesteps[0] >= schedule.train_steps:
            raise PcmError(
                f"sampler timesteps={list(config.timesteps)}: this policy was trained with "
                f"timesteps 0 to {schedule.train_steps - 1}"
            )
        return torch.tensor(config.timesteps)
    return spaced(schedule.train_steps, config.steps, config.spacing, config.offset)


def levels(
    schedule: NoiseSchedule, config: SamplerConfig, visited: Tensor, last: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Return ``abar`` at the visited timesteps, and where each step lands, both ``(N,)``.

    Args:
        schedule: with a table.
        config: says where steps land.
        visited: ``(N,)``.
        last: ``abar`` where the last step lands.
    """
    abar = schedule.alphas_cumprod()
    if config.previous == "ratio":
        previous = visited - schedule.train_steps // config.steps
    else:
        previous = torch.cat([visited[1:], visited.new_tensor([-1])])
    end = abar.new_tensor(float(last))
    return abar[visited], torch.where(previous >= 0, abar[previous.clamp(min=0)], end)
