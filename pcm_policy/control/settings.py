"""What a controller needs to know of its policy, and the settings of its user."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

import numpy as np

from pcm_policy.checks import MOST_STEPS, check_range, flag, number, one_of, vector, whole
from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits
from pcm_policy.settings import Level, Positive, Range

Mode = Literal["sync", "async"]
WarmStart = Literal["off", "chunk", "trajectory", "auto"]
WARM_STARTS = get_args(WarmStart)
Fallback = Literal["continue", "hold", "slow", "stop"]
LimitFallback = Literal["clip", "hold", "stop"]
Passing = Annotated[int, Range(least=0, most=MOST_STEPS)]
Executed = Annotated[int, Range(least=1, most=MOST_STEPS)]
MOST_NUMBERS = 1_000_000  # in an observation or an action
MOST_CAMERAS = 32
MOST_PIXELS = 10_000  # in a row or a column of an image


@dataclass(frozen=True)
class PolicySpec:
    """The shapes, rates and ranges of a policy: all that the robot's side needs of it.

    Attributes:
        obs_dim: ``Do``, numbers in one observation beside its images.
        action_dim: ``Da``.
        horizon: ``T``, predicted steps.
        obs_steps: ``To``, observed steps.
        action_steps: ``Ta``, steps of a chunk that the policy is meant to execute.
        control_hz: rate at which its actions are meant to be executed.
        obs_low: ``(Do,)`` smallest observation in training, raw units.
        obs_high: ``(Do,)`` largest.
        action_low: ``(Da,)`` smallest action in training, raw units.
        action_high: ``(Da,)`` largest.
        max_excess: an observation or a planned action further outside than this many times its
            training range is refused.
        obs_fields: entries of an observation that is a dictionary, in order; see
            :func:`pcm_policy.fields.join_fields`.
        cameras: height and width of every camera's images, in pixels; empty for a policy without.

    Raises:
        PcmError: a value of another type or out of range, or ranges that are not ranges.

    Example:
        >>> spec = PolicySpec(
        ...     obs_dim=2, action_dim=1, horizon=4, obs_steps=1, action_steps=2, control_hz=10,
        ...     obs_low=(-1, -1), obs_high=(1, 1), action_low=(-1,), action_high=(1,),
        ... )
        >>> spec.usable
        4
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
    obs_fields: tuple[str, ...] = ()
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", _cameras(self.cameras))
        whole("policy obs_dim", self.obs_dim, 0 if self.cameras else 1, MOST_NUMBERS)
        whole("policy action_dim", self.action_dim, 1, MOST_NUMBERS)
        for name in ("horizon", "obs_steps", "action_steps"):
            whole(f"policy {name}", getattr(self, name), 1, MOST_STEPS)
        if self.obs_steps - 1 + self.action_steps > self.horizon:
            raise PcmError(
                f"policy horizon={self.horizon} is shorter than obs_steps={self.obs_steps} - 1 and "
                f"action_steps={self.action_steps}"
            )
        number("policy control_hz", self.control_hz, above=0)
        number("policy max_excess", self.max_excess, 0)
        object.__setattr__(self, "obs_fields", _names(self.obs_fields))
        for kind, width in (("obs", self.obs_dim), ("action", self.action_dim)):
            low, high = (self._bound(f"{kind}_{end}", width) for end in ("low", "high"))
            check_range(f"policy {kind}", low, high)

    def _bound(self, name: str, width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        if width == 0 and len(getattr(self, name)) == 0:
            object.__setattr__(self, name, ())
            return np.zeros(0)
        values = vector(f"policy {name}", getattr(self, name), finite=False)
        if values.shape != (width,):
            raise PcmError(f"policy {name} has shape {values.shape}, expected ({width},)")
        object.__setattr__(self, name, tuple(values.tolist()))
        return values

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's images."""
        return sum(3 * height * width for height, width in self.cameras.values())

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
            PcmError: a field is missing, unknown, of the wrong type or length, or out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise PcmError(f"not a policy description: {error}") from error

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
        couple_noise: shift the noise along with the plan. This is another closed-loop policy, see
            :mod:`pcm_policy.serving.memory`.
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
        low: ``(Da,)`` or a number for all dimensions, smallest command in raw units; None for no
            limit.
        high: ``(Da,)`` or a number, largest.
        max_step: ``(Da,)`` or a number, largest change of a command from one control step to the
            next.
        stale_steps: a plan whose observation is older than this many control steps is never
            executed; None is as many as a chunk has usable steps.
        hold: ``(Da,)`` what a robot that holds is sent; None in a dimension (or for all of them)
            repeats the last command there. A robot whose actions are moves stands still on zeros,
            not on its last move.

    Raises:
        PcmError: a value of another type or out of range, NaN, or settings that exclude each other.

    Example:
        >>> settings = ControlSettings(mode="async", control_hz=20, low=-1.0, high=1.0)
        >>> settings.limits().high.tolist()
        1.0
    """

    mode: Mode = "sync"
    control_hz: Positive | None = None
    replan_steps: Executed | None = None
    warm_start: WarmStart = "off"
    couple_noise: bool = False
    prefix: bool = False
    prefix_past: bool = False
    prefix_input: bool = False
    blend_steps: Passing = 0
    delay_steps: Passing | None = None
    on_late: Fallback = "continue"
    on_observation: Fallback = "continue"
    on_solve: Fallback = "continue"
    on_limit: LimitFallback = "clip"
    slow_factor: Annotated[float, Range(above=0, below=1)] = 0.5
    low: tuple[Level, ...] | Level | None = None
    high: tuple[Level, ...] | Level | None = None
    max_step: tuple[Level, ...] | Level | None = None
    stale_steps: Executed | None = None
    hold: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        fallbacks = ("on_late", "on_observation", "on_solve")
        choices = {"mode": Mode, "warm_start": WarmStart, "on_limit": LimitFallback}
        for name, allowed in (choices | dict.fromkeys(fallbacks, Fallback)).items():
            one_of(f"control.{name}", getattr(self, name), get_args(allowed))
        for name in ("couple_noise", "prefix", "prefix_past", "prefix_input"):
            flag(f"control.{name}", getattr(self, name))
        whole("control.blend_steps", self.blend_steps, 0, MOST_STEPS)
        for name, least in (("replan_steps", 1), ("stale_steps", 1), ("delay_steps", 0)):
            if getattr(self, name) is not None:
                whole(f"control.{name}", getattr(self, name), least, MOST_STEPS)
        if self.control_hz is not None:
            number("control.control_hz", self.control_hz, above=0)
        number("control.slow_factor", self.slow_factor, above=0, below=1)
        for name in ("low", "high", "max_step"):
            if getattr(self, name) is not None:
                value = vector(f"control.{name}", getattr(self, name), finite=False).tolist()
                object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        self.limits()
        if self.hold is not None:
            object.__setattr__(self, "hold", _hold(self.hold))
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
        for name in ("low", "high", "max_step", "hold"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != spec.action_dim:
                raise PcmError(
                    f"control.{name} has {len(value)} numbers, an action {spec.action_dim}"
                )
        if self.delay_steps is not None and self.delay_steps > spec.usable:
            raise PcmError(
                f"control.delay_steps={self.delay_steps}: a chunk has {spec.usable} usable steps, "
                "a plan that comes later is never executed"
            )
        if self.blend_steps > spec.usable:
            raise PcmError(
                f"control.blend_steps={self.blend_steps}: a chunk has {spec.usable} usable steps"
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
        try:
            return ActionLimits(low, high, step)
        except PcmError as error:
            raise PcmError(f"control.low, control.high, control.max_step: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ControlSettings":
        """Build from plain data.

        Raises:
            PcmError: an unknown setting, or a bad value.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise PcmError(f"unknown setting control.{sorted(unknown)[0]}")
        return cls(**values)


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise PcmError(f"policy obs_fields={values!r}: expected a list of names")
    return tuple(values)


def _cameras(values: Any) -> dict[str, tuple[int, int]]:
    """Read the cameras of a description: names, and heights and widths in pixels."""
    if not isinstance(values, Mapping) or len(values) > MOST_CAMERAS:
        raise PcmError(f"policy cameras={values!r}: expected at most {MOST_CAMERAS} by name")
    found: dict[str, tuple[int, int]] = {}
    for name, size in values.items():
        if not isinstance(name, str) or not isinstance(size, list | tuple) or len(size) != 2:
            raise PcmError(f"policy cameras: {name!r}={size!r} is not a height and a width")
        height, width = (whole(f"policy cameras.{name}", n, 1, MOST_PIXELS) for n in size)
        found[name] = (height, width)
    return found


def _hold(values: Any) -> tuple[float | None, ...]:
    if not isinstance(values, list | tuple):
        raise PcmError(f"control.hold={values!r}: expected a list of numbers and nulls")
    return tuple(None if v is None else number("control.hold", v) for v in values)
