"""Noise schedules and timestep spacings: the tables that every sampler starts from.

Time runs from noise to data: a schedule is indexed by the training timestep ``t`` (0 = least
noise), a sampler visits descending timesteps.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.checks import LARGEST, number, whole
from pcm_policy.errors import PcmError
from pcm_policy.settings import Range

MOST_TRAIN_STEPS = 100_000
Beta = Annotated[float, Range(above=0, below=1)]
BetaSchedule = Literal["squaredcos_cap_v2", "linear"]
ScheduleName = Literal["squaredcos_cap_v2", "linear", "flow"]
Spacing = Literal["leading", "linspace", "trailing"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process ``x = alpha clean + sigma noise``.

    Variance preserving schedules have ``alpha = sqrt(abar_t)``, ``sigma = sqrt(1 - abar_t)`` at
    integer training timesteps ``t``. ``flow`` (Lipman et al. 2023, Liu et al. 2023) is the straight
    path ``alpha = 1 - s``, ``sigma = s`` at any level ``s`` in (0, 1]; the network is shown
    ``t = s train_steps``, as diffusers does.

    The table is built in float32, as diffusers builds it, because checkpoints were trained on that
    table; arithmetic that uses it is float64. Sources: ``linear`` Ho et al. 2020 section 4;
    ``squaredcos_cap_v2`` Nichol and Dhariwal 2021 eq. 17 with betas capped at 0.999.

    Attributes:
        name: which schedule.
        train_steps: number of noise levels that are trained with.
        beta_start: of ``linear``: noise added in the first step.
        beta_end: of ``linear``: in the last.

    Raises:
        PcmError: unknown schedule name, no training step, or betas outside (0, 1).

    Example:
        >>> NoiseSchedule("linear", train_steps=100).alphas_cumprod().shape
        torch.Size([100])
    """

    name: ScheduleName = "squaredcos_cap_v2"
    train_steps: Annotated[int, Range(least=1, most=MOST_TRAIN_STEPS)] = 100
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise PcmError(
                f"unknown noise schedule {self.name!r}: use one of {get_args(ScheduleName)}"
            )
        whole("schedule train_steps", self.train_steps, -LARGEST)
        for name in ("beta_start", "beta_end"):
            number(f"schedule {name}", getattr(self, name))
        if self.train_steps < 1:
            raise PcmError(f"train_steps={self.train_steps}: a schedule needs at least one step")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise PcmError(
                f"beta_start={self.beta_start}, beta_end={self.beta_end}: need 0 < start <= end < 1"
            )

    @property
    def is_flow(self) -> bool:
        """Whether this is the straight path of flow matching rather than a table of betas."""
        return self.name == "flow"

    def alphas_cumprod(self) -> Tensor:
        """Return the table ``abar``, ``(train_steps,)``: float64 values of a float32 table.

        Raises:
            PcmError: a flow, which has no such table.
        """
        if self.is_flow:
            raise PcmError("schedule=flow has no table of alphas: use sampler=flow_euler")
        if self.name == "linear":
            betas = torch.linspace(
                self.beta_start, self.beta_end, self.train_steps, dtype=torch.float32
            )
        else:

            def abar(u: float) -> float:
                return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

            n = self.train_steps
            betas = torch.tensor(
                [min(1 - abar((i + 1) / n) / abar(i / n), 0.999) for i in range(n)],
                dtype=torch.float32,
            )
        return torch.cumprod(1.0 - betas, dim=0).double()


def flow_levels(train_steps: int, steps: int, spacing: Spacing, shift: float) -> Tensor:
    """Return the descending noise levels ``s`` that a flow sampler visits, without the final 0.

    Each spacing is one in use: ``trailing`` divides [0, 1] evenly, as Stable Diffusion 3's and
    Flux's pipelines do. ``linspace`` is the default grid of diffusers'
    ``FlowMatchEulerDiscreteScheduler``: from 1 to the shifted ``1 / train_steps``, and all of it
    shifted again. ``leading`` is the grid of diffusers' ``DPMSolverMultistepScheduler`` with
    ``use_flow_sigmas``: evenly from ``1 - 1 / train_steps``, one training step below pure noise.

    Args:
        train_steps: number of training timesteps, the ``t`` that pure noise has.
        steps: number of sampling steps ``N``; a flow takes any number.
        spacing: ``trailing``, ``linspace`` or ``leading``.
        shift: ``s`` becomes ``shift s / (1 + (shift - 1) s)`` (Esser et al. 2024, eq. 23).

    Returns:
        ``(steps,)`` float64 in (0, 1].

    Raises:
        PcmError: no step, an unknown spacing, or ``leading`` with one training step.
    """
    if steps < 1:
        raise PcmError(f"solver.steps={steps}: a sampler needs at least one step")
    if spacing not in get_args(Spacing):
        raise PcmError(f"unknown spacing {spacing!r}: use one of {get_args(Spacing)}")
    if spacing == "leading" and train_steps == 1:
        raise PcmError("spacing=leading needs two training steps: use spacing=trailing")

    def shifted(s: Tensor) -> Tensor:
        return shift * s / (shift * s + (1.0 - s))  # exactly 1 at pure noise

    even = 1.0 - torch.arange(steps, dtype=torch.float64) / steps
    if spacing == "trailing":
        return shifted(even)
    last = torch.tensor(1.0 / train_steps, dtype=torch.float64)
    if spacing == "leading":
        return shifted((1.0 - last) * even)
    return shifted(torch.linspace(1.0, float(shifted(last)), steps, dtype=torch.float64))


def timesteps(train_steps: int, steps: int, spacing: Spacing, offset: int = 0) -> Tensor:
    """Return the descending training timesteps that a sampler of ``steps`` steps visits.

    The three spacings are those of diffusers (Lin et al. 2024, table 2): ``leading`` starts below
    the noisiest step, ``linspace`` holds both ends, ``trailing`` always starts at the noisiest.

    Args:
        train_steps: number of training timesteps.
        steps: number of sampling steps ``N``, at most ``train_steps``.
        spacing: ``leading``, ``linspace`` or ``trailing``.
        offset: added to ``leading`` timesteps (diffusers' ``steps_offset``).

    Returns:
        int64 tensor of shape ``(steps,)``.

    Raises:
        PcmError: more steps than were trained, none at all, or an offset past the table.
    """
    if not 1 <= steps <= train_steps:
        raise PcmError(
            f"solver.steps={steps}: this policy was trained with {train_steps} denoising steps; "
            f"choose 1 to {train_steps}"
        )
    grid: NDArray[Any]
    if spacing == "linspace":
        grid = np.linspace(0, train_steps - 1, steps).round()[::-1]
    elif spacing == "leading":
        grid = (np.arange(steps) * (train_steps // steps))[::-1] + offset
    elif spacing == "trailing":
        grid = np.round(np.arange(train_steps, 0, -train_steps / steps)[:steps]) - 1
    else:
        raise PcmError(f"unknown spacing {spacing!r}: use one of {get_args(Spacing)}")
    result = torch.from_numpy(grid.astype(np.int64).copy())
    if offset < 0 or int(result.max()) >= train_steps:
        raise PcmError(f"offset={offset} with {steps} leading steps runs past {train_steps} steps")
    return result
