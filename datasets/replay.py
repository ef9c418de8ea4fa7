"""Demonstrations in memory, in Diffusion Policy's layout, checked when they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.store import (
    count_rows,
    episode_faults,
    find_keys,
    length_faults,
    nonfinite_fault,
    nonfinite_rows,
    open_group,
    read_array,
    read_ends,
)
from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class ArrayInfo:
    """Metadata of one ``data/<key>`` array; ``nbytes`` is its size once decoded."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    nbytes: int


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


def open_replay(path: str | Path, keys: Sequence[str] | None = None) -> ReplayBuffer:
    """Read a store into memory and check it; only ``keys`` are read (None: every array).

    Raises:
        ReplayError: the store, an array or the episode ends are missing, damaged or inconsistent,
            or a float array holds NaN or inf. ``datasets.doctor`` lists all faults at once.
    """
    path = Path(path)
    with open_group(path) as group:
        handles = find_keys(path, group, keys)
        stored_ends = read_ends(path, group)
        n_rows = count_rows(handles)
        for fault in length_faults(path, n_rows):
            raise fault
        for fault in episode_faults(path, stored_ends, next(iter(n_rows.values()), 0)):
            raise fault
        arrays = {key: read_array(path, f"data/{key}", array) for key, array in handles.items()}
        attrs = dict(group.attrs)
    ends = stored_ends.astype(np.int64)
    for key, values in arrays.items():
        if (rows := nonfinite_rows(values)).size:
            raise nonfinite_fault(path, key, rows, ends)
    return ReplayBuffer(arrays, ends, path, attrs)


def array_info(path: str | Path) -> list[ArrayInfo]:
    """Describe every array of ``data/`` from its metadata alone; ReplayError as ``open_replay``."""
    with open_group(path) as group:
        return [
            ArrayInfo(key, array.shape, np.dtype(array.dtype), array.chunks, array.nbytes)
            for key, array in find_keys(Path(path), group).items()
        ]
