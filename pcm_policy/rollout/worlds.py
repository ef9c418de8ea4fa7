"""What a real-time loop controls: an environment, or recorded observations."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import pcm_policy.envs  # noqa: F401 (registers the environments)
from pcm_policy.control.config import Rest
from pcm_policy.control.plan import Actions
from pcm_policy.envs.vector import find_spec


class World(Protocol):
    """Something with a newest observation that takes commands."""

    def begin(self) -> tuple[int, Actions | None]:
        """Start an episode; returns its seed and the command that keeps the robot at rest."""
        ...

    def first(self) -> Any:
        """Return an observation to warm up on, before any episode."""
        ...

    def frame(self) -> Any:
        """Return the newest observation, ``(Do,)`` or entries by name."""
        ...

    def send(self, action: Actions | None) -> bool:
        """Take a command, or none; returns whether the episode is over."""
        ...

    def scores(self) -> list[float]:
        """Return the scores of the episodes that are over."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class EnvWorld:
    """A simulated environment; a step of it is a control step.

    Args:
        env_id: a gymnasium id.
        seed: of the first episode; the others count on from it.
        rest: from the first frame to the command that keeps the robot where it is.
        kept: scores kept.
        **env_kwargs: for ``gymnasium.make``.
    """

    def __init__(
        self,
        env_id: str,
        seed: int,
        rest: Rest | None = None,
        kept: int = 1000,
        **env_kwargs: Any,
    ) -> None:
        find_spec(env_id)
        self._env: gym.Env[Any, Any] = gym.make(env_id, disable_env_checker=True, **env_kwargs)
        self._seed, self._rest, self._kept = seed - 1, rest, kept
        self._scores: list[float] = []
        self._best = -np.inf

    def begin(self) -> tuple[int, Actions | None]:
        """Reset with the next seed."""
        self._seed += 1
        self._frame, _ = self._env.reset(seed=self._seed)
        self._best = -np.inf
        return self._seed, None if self._rest is None else self._rest(self._frame)

    def first(self) -> Any:
        """Return what the first episode begins with."""
        return self._env.reset(seed=self._seed + 1)[0]

    def frame(self) -> Any:
        """Return the observation of the last step."""
        return self._frame

    def send(self, action: Actions | None) -> bool:
        """Step the environment; without a command it stands still."""
        if action is None:
            return False
        self._frame, reward, terminated, truncated, _ = self._env.step(action)
        self._best = max(self._best, float(reward))
        if terminated or truncated:
            self._scores = [*self._scores, self._best][-self._kept :]
        return bool(terminated or truncated)

    def scores(self) -> list[float]:
        """Return the best rewards of the episodes that are over."""
        return self._scores

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


class RecordedWorld:
    """Recorded observations in a circle: timing without a simulator.

    Args:
        frames: ``(n, Do)``, or observations that are dictionaries.
    """

    def __init__(self, frames: Sequence[Any] | NDArray[np.float32]) -> None:
        self._frames, self._next = frames, 0

    def begin(self) -> tuple[int, Actions | None]:
        """Start once; there is no end."""
        return 0, None

    def first(self) -> Any:
        """Return the first recorded observation."""
        return self._frames[0]

    def frame(self) -> Any:
        """Return the next recorded observation."""
        self._next = (self._next + 1) % len(self._frames)
        return self._frames[self._next]

    def send(self, action: Actions | None) -> bool:
        """Ignore a command."""
        return False

    def scores(self) -> list[float]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Do nothing."""
