"""Limits on the actions that reach the robot."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import numbers, vector
from pcm_policy.errors import PcmError

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ActionLimits:
    """Limits in raw action units; None means no limit.

    Attributes:
        low: ``(Da,)`` or a number, smallest action; ``-inf`` for a dimension without a limit.
        high: ``(Da,)`` or a number, largest action.
        max_step: ``(Da,)`` or a number, largest change from one control step to the next.

    Raises:
        PcmError: NaN, no numbers, different widths, low above high, or a max_step not above 0.

    Example:
        >>> limits = ActionLimits(-1.0, 1.0, max_step=0.25)
        >>> chunk = np.array([[[0.5], [2.0]]], np.float32)  # (B, Ta, Da)
        >>> limits.apply(chunk, previous=np.array([[0.5]], np.float32)).tolist()
        [[[0.5], [0.75]]]
    """

    low: NDArray[np.float64] | float | None = None
    high: NDArray[np.float64] | float | None = None
    max_step: NDArray[np.float64] | float | None = None

    def __post_init__(self) -> None:
        widths: dict[str, int] = {}
        for name in ("low", "high", "max_step"):
            given = getattr(self, name)
            if given is None:
                continue
            value = vector(f"action limits: {name}", given, finite=False)
            object.__setattr__(self, name, value)
            widths |= {name: len(value)} if value.ndim else {}
        if len(set(widths.values())) > 1:
            raise PcmError(f"action limits: different numbers of dimensions: {widths}")
        low, high, step = self.low, self.high, self.max_step
        if low is not None and high is not None and not np.all(low <= high):
            raise PcmError(f"action limits: low {_text(low)} lies above high {_text(high)}")
        if low is not None and not np.all(low <= FLOAT32_MAX):
            raise PcmError(f"action limits: low {_text(low)}: no action is as large as that")
        if high is not None and not np.all(high >= -FLOAT32_MAX):
            raise PcmError(f"action limits: high {_text(high)}: no action is as small as that")
        if step is not None and not np.all(step > 0):
            raise PcmError(f"action limits: max_step {_text(step)} must be positive")

    def check(self, dims: int) -> None:
        """Refuse limits that do not fit actions of ``dims`` numbers.

        Raises:
            PcmError: a limit of another width.
        """
        for name in ("low", "high", "max_step"):
            value = getattr(self, name)
            if value is not None and value.ndim and len(value) != dims:
                raise PcmError(f"action limits: {name} has {len(value)} numbers, an action {dims}")

    def apply(
        self, actions: NDArray[np.float32], previous: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Clip a chunk of actions.

        Args:
            actions: ``(B, Ta, Da)``, finite.
            previous: ``(B, Da)`` the action executed last, finite; without it the first one of the
                chunk is not rate limited.

        Returns:
            ``(B, Ta, Da)``, finite, within the range, each within ``max_step`` of the one before.

        Raises:
            PcmError: limits, actions or ``previous`` of another shape, or not finite.
        """
        self.check(actions.shape[-1])
        out = _finite("the action", actions).astype(np.float64)
        out = np.clip(out, self._low, self._high)
        if self.max_step is not None:
            if previous is not None:
                before = numbers("previous", previous)
                if before.shape != (len(out), out.shape[2]):
                    raise PcmError(
                        f"previous has shape {before.shape}: give the actions executed last, "
                        f"{(len(out), out.shape[2])}"
                    )
                # the robot may stand outside the range: the range wins over the rate
                first = self._towards(_finite("previous", before), out[:, 0])
                out[:, 0] = np.clip(first, self._low, self._high)
            for i in range(1, out.shape[1]):
                out[:, i] = self._towards(out[:, i - 1], out[:, i])
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            sent = out.astype(np.float32)
        return _finite("the limited action", sent)

    @property
    def _low(self) -> NDArray[np.float64] | float:
        return -np.inf if self.low is None else self.low

    @property
    def _high(self) -> NDArray[np.float64] | float:
        return np.inf if self.high is None else self.high

    def _towards(self, start: NDArray[Any], goal: NDArray[Any]) -> NDArray[np.float64]:
        step = np.asarray(self.max_step)
        result: NDArray[np.float64] = start + np.clip(goal - start, -step, step)
        return result


def _finite(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise PcmError(f"{name} is not finite: nothing is sent to the robot")
    return values


def _text(values: NDArray[np.float64] | float) -> str:
    return str(np.asarray(values).tolist())
