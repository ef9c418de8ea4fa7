"""Demonstrations in memory, end to end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError


@dataclass(frozen=True, eq=False)
class ReplayBuffer:
    """Episodes in memory, end to end: every array has ``n_steps`` rows."""

    arrays: Mapping[str, NDArray[Any]]
    episode_ends: NDArray[np.int64]
    path: Path
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_steps(self) -> int:
        """Rows over all episodes."""
        return int(self.episode_ends[-1])

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each episode, shape (n_episodes,)."""
        return self.episode_ends - self.lengths

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each episode, shape (n_episodes,)."""
        return np.diff(self.episode_ends, prepend=0)

    def episode(self, i: int) -> dict[str, NDArray[Any]]:
        """Return views of the rows of episode ``i``, by key; IndexError when there is none."""
        rows = slice(self.starts[i], self.episode_ends[i])
        return {key: values[rows] for key, values in self.arrays.items()}

    def first(self, count: int) -> "ReplayBuffer":
        """Return the first ``count`` episodes, or all if there are fewer.

        Raises:
            PcmError: a count below 1.
        """
        if count < 1:
            raise PcmError(f"episodes={count}: take at least 1")
        ends = self.episode_ends[:count]
        arrays = {key: values[: ends[-1]] for key, values in self.arrays.items()}
        return ReplayBuffer(arrays, ends, self.path, self.attrs)
