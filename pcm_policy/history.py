"""The newest frames that a policy saw, and the rest of the chunk it executes; numpy alone."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class History:
    """The newest frames of an episode; its first one stands for those before it.

    Args:
        steps: frames kept, ``To``.

    Example:
        >>> seen = History(3)
        >>> seen.add(np.array([1.0]))
        >>> seen.add(np.array([2.0]))
        >>> seen.stacked().ravel().tolist()
        [1.0, 1.0, 2.0]
    """

    def __init__(self, steps: int) -> None:
        self._frames: deque[Any] = deque(maxlen=steps)

    def __bool__(self) -> bool:
        """Whether there is a frame."""
        return bool(self._frames)

    def clear(self) -> None:
        """Begin an episode."""
        self._frames.clear()

    def add(self, frame: Any) -> None:
        """Add the newest frame, an array or a dictionary of arrays; a copy of it is kept."""
        kept = _each(np.array, frame)
        self._frames.extend([kept] * (1 if self._frames else self._frames.maxlen or 1))

    def stacked(self, axis: int = 0) -> Any:
        """Return the frames, oldest first, along a new axis; entry by entry for dictionaries."""
        newest = self._frames[-1]
        if isinstance(newest, Mapping):
            return {k: np.stack([frame[k] for frame in self._frames], axis) for k in newest}
        return np.stack(list(self._frames), axis)


class RecedingHorizon:
    """One action for one frame: plans when the last chunk is used up.

    Args:
        obs_steps: frames that a plan looks at, ``To``.
    """

    def __init__(self, obs_steps: int) -> None:
        self.history = History(obs_steps)
        self._left: deque[NDArray[Any]] = deque()

    def reset(self) -> None:
        """Begin an episode."""
        self.history.clear()
        self._left.clear()

    def act(self, frame: Any, plan: Callable[[History], NDArray[Any]]) -> NDArray[Any]:
        """Take a frame and return the next action.

        Args:
            frame: what was seen.
            plan: makes the next chunk, ``(Ta, ...)``, all of which is executed.
        """
        self.history.add(frame)
        if not self._left:
            self._left.extend(plan(self.history))
        return self._left.popleft()


def _each(make: Callable[[Any], Any], frame: Any) -> Any:
    if isinstance(frame, Mapping):
        return {name: make(values) for name, values in frame.items()}
    return make(frame)
