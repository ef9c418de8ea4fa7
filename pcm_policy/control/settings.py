"""What a controller must know of its policy, and what its user may choose."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits

MODES = ("sync", "async")
WARM_STARTS = ("off", "chunk", "trajectory", "auto")
FALLBACKS = ("continue", "hold", "slow", "stop")
LIMIT_FALLBACKS = ("clip", "hold", "stop")


@dataclass(frozen=True)
class PolicySpec:
    """The shapes, rates and ranges of a policy: all that the robot's side needs of it.

    Attributes:
        obs_dim: ``Do``.
        action_dim: ``Da``.
        horizon: ``T``, predicted steps.
        obs_steps: ``To``, observed steps.
        action_steps: ``Ta``, steps that the policy was meant to execute of a chunk.
        control_hz: rate at which its actions are meant to be executed.
        obs_low: ``(Do,)`` smallest observation in training, raw units.
        obs_high: ``(Do,)`` largest.
        action_low: ``(Da,)`` smallest action in training, raw units.
        action_high: ``(Da,)`` largest.
        max_excess: an observation or a planned action further outside than this many times its
            training range is refused.
    """

    obs_dim: int
    action_dim: int
    horizon: int
    obs_steps: int
    action_steps: int
    control_hz: float
    obs_low: tuple[float, ...]
    obs_high: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_excess: float = 1.0

    @property
    def usable(self) -> int:
        """Steps of a chunk from the newest observation on, ``T - To + 1``."""
        return self.horizon - self.obs_steps + 1

    @property
    def action_range(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``(Da,)`` width of the training range, 1 where it has none."""
        width = np.asarray(self.action_high, np.float64) - np.asarray(self.action_low, np.float64)
        return np.where(width > 0, width, 1.0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PolicySpec":
        """Rebuild from :meth:`to_dict`, as it came over the wire.

        Raises:
            PcmError: a field is missing, unknown or of the wrong length.
        """
        try:
            lists = {k: tuple(map(float, v)) for k, v in values.items() if isinstance(v, list)}
            spec = cls(**{**values, **lists})
        except (TypeError, ValueError) as error:
            raise PcmError(f"not a policy description: {error}") from error
        widths = [len(spec.obs_low), len(spec.obs_high), len(spec.action_low)]
        if widths != [spec.obs_dim, spec.obs_dim, spec.action_dim]:
            raise PcmError(f"a policy description whose ranges have lengths {widths}")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for msgpack or JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class ControlSettings:
    """How a controller plans, waits and falls back.

    Attributes:
        mode: ``sync`` (the robot waits for its plan) or ``async`` (it executes the old plan while
            the next one is solved).
        control_hz: commands per second; None takes the policy's.
        replan_steps: executed steps from one plan request to the next; None takes ``Ta``.
        warm_start: what the next solve starts from: ``off``, ``chunk`` (the last plan, shifted) or
            ``trajectory`` (the last solve's predictions at every denoising step, shifted); ``auto``
            is ``trajectory``, but ``off`` for a PCM head that says itself where to start.
        couple_noise: shift the noise along with the plan. Another closed-loop policy: see
            :mod:`pcm_policy.serving.warm`.
        prefix: freeze the actions that will be executed while the solve runs.
        prefix_past: freeze the executed actions that the chunk looks back on (``To - 1``) as well.
        prefix_input: see :class:`~pcm_policy.sampling.denoise.Prefix`, ``overwrite_input``.
        blend_steps: steps over which a new plan is blended in from the old one; 0 switches.
        delay_steps: steps a solve is expected to take; None estimates them from past solves.
        on_late: a plan is not there when it should be: ``continue`` the old one, ``hold`` the last
            command, ``slow`` (the old plan at ``slow_factor`` of its speed) or ``stop`` for good.
        on_observation: the newest frame is not usable; same choices.
        on_solve: a solve failed or diverged; same choices.
        on_limit: a command outside the limits: ``clip`` it, ``hold`` the last one, or ``stop``.
        slow_factor: speed of ``slow``, in (0, 1).
        low: ``(Da,)`` smallest command in raw units; None for no limit.
        high: ``(Da,)`` largest.
        max_step: ``(Da,)`` largest change of a command from one control step to the next.
        stale_steps: a plan whose observation is older than this many control steps is never
            executed; None is as many as a chunk has usable steps.
    """

    mode: str = "sync"
    control_hz: float | None = None
    replan_steps: int | None = None
    warm_start: str = "off"
    couple_noise: bool = False
    prefix: bool = False
    prefix_past: bool = False
    prefix_input: bool = False
    blend_steps: int = 0
    delay_steps: int | None = None
    on_late: str = "continue"
    on_observation: str = "continue"
    on_solve: str = "continue"
    on_limit: str = "clip"
    slow_factor: float = 0.5
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    max_step: tuple[float, ...] | None = None
    stale_steps: int | None = None

    def __post_init__(self) -> None:
        fallbacks = ("on_late", "on_observation", "on_solve")
        choices = {"mode": MODES, "warm_start": WARM_STARTS, "on_limit": LIMIT_FALLBACKS}
        for name, allowed in (choices | dict.fromkeys(fallbacks, FALLBACKS)).items():
            if getattr(self, name) not in allowed:
                raise PcmError(f"control.{name}={getattr(self, name)!r}: use one of {allowed}")
        for name, least in (("replan_steps", 1), ("stale_steps", 1), ("delay_steps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise PcmError(f"control.{name}={value}: use at least {least}")
        if self.control_hz is not None and not 0 < self.control_hz < np.inf:
            raise PcmError(f"control.control_hz={self.control_hz}: use a positive rate")
        if not 0 < self.slow_factor < 1 or self.blend_steps < 0:
            raise PcmError("control.slow_factor lies in (0, 1), control.blend_steps is at least 0")
        if self.mode == "sync" and self.prefix:
            raise PcmError(
                "control.prefix with control.mode=sync: nothing is executed while a synchronous "
                "solve runs; use control.mode=async"
            )

    def check(self, spec: PolicySpec) -> None:
        """Refuse settings that do not fit a policy.

        Raises:
            PcmError: limits of the wrong width, or more steps than a chunk has.
        """
        for name in ("low", "high", "max_step"):
            value = getattr(self, name)
            if value is not None and len(value) != spec.action_dim:
                raise PcmError(
                    f"control.{name} has {len(value)} numbers, an action {spec.action_dim}"
                )
        if self.replan(spec) > spec.usable:
            raise PcmError(
                f"control.replan_steps={self.replan(spec)}: a chunk has {spec.usable} usable steps"
            )

    def replan(self, spec: PolicySpec) -> int:
        """Executed steps between plans."""
        return self.replan_steps or spec.action_steps

    def period_ms(self, spec: PolicySpec) -> float:
        """Milliseconds per control step."""
        return 1e3 / (self.control_hz or spec.control_hz)

    def limits(self) -> ActionLimits:
        """Return the limits as arrays."""
        values = (self.low, self.high, self.max_step)
        low, high, step = (None if v is None else np.asarray(v, np.float64) for v in values)
        return ActionLimits(low, high, step)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ControlSettings":
        """Build from plain data.

        Raises:
            PcmError: an unknown setting, or a bad value.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise PcmError(f"unknown setting control.{sorted(unknown)[0]}")
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**given)
        except TypeError as error:
            raise PcmError(f"control settings: {error}") from error
