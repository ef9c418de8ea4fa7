"""Demonstrations in memory, in Diffusion Policy's layout, checked when they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.buffer import ReplayBuffer as ReplayBuffer
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


@dataclass(frozen=True)
class ArrayInfo:
    """Metadata of one ``data/<key>`` array; ``nbytes`` is its size once decoded."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    nbytes: int


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
