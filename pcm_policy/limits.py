"""What may reach the robot: checks on observations, limits on actions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class ActionLimits:
    """Limits in raw action units; None means no limit.

    Attributes:
        low: ``(Da,)`` smallest action.
        high: ``(Da,)`` largest action.
        max_step: ``(Da,)`` or a number, largest change from one control step to the next.
    """

    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    max_step: NDArray[np.float64] | float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and np.any(self.low > self.high):
            raise PcmError(f"action limits: low {self.low} lies above high {self.high}")
        if self.max_step is not None and np.any(np.asarray(self.max_step) <= 0):
            raise PcmError(f"action limits: max_step {self.max_step} must be positive")

    def apply(
        self, actions: NDArray[np.float32], previous: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Clip a chunk of actions.

        Args:
            actions: ``(B, Ta, Da)``.
            previous: ``(B, Da)`` the action executed last; without it the first one of the chunk
                is not rate limited.

        Returns:
            ``(B, Ta, Da)``, within the range, each within ``max_step`` of the one before.
        """
        out = np.clip(actions, self.low, self.high) if self._bounded else actions.copy()
        if self.max_step is not None:
            if previous is not None:
                # the robot may stand outside the range: the range wins over the rate
                first = self._towards(previous, out[:, 0])
                out[:, 0] = np.clip(first, self.low, self.high) if self._bounded else first
            for i in range(1, out.shape[1]):
                out[:, i] = self._towards(out[:, i - 1], out[:, i])
        return out.astype(np.float32)

    @property
    def _bounded(self) -> bool:
        return self.low is not None or self.high is not None

    def _towards(
        self, start: NDArray[np.float32], goal: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        result: NDArray[np.float32] = start + np.clip(
            goal - start, -np.asarray(self.max_step), self.max_step
        )
        return result
