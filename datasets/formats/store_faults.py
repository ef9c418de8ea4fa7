"""What can be wrong with a replay buffer (zarr): all of its structure's faults at once."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.formats.store import (
    count_rows,
    decoding,
    episode_faults,
    length_faults,
    nonfinite_fault,
    nonfinite_rows,
    open_arrays,
    read_array,
    read_ends,
)
from pcm_policy.datasets.gathered import MAX_COLUMNS, Gathered


def examine(path: Path, group: zarr.Group, data: Gathered) -> Iterator[Finding]:
    """Yield what is wrong with a store's structure, and gather its numbers.

    Raises:
        ReplayError: it holds no arrays.
    """
    handles, faults, deeper = open_arrays(path, group)
    data.keys = [*handles, *faults]
    yield from (error("read", fault) for fault in faults.values())
    for name in deeper:
        yield Finding("note", "others", f"{name}: deeper than data/KEY, where nothing looks", "")
    n_rows = count_rows(handles)
    uneven = length_faults(path, n_rows)
    yield from (error("lengths", fault) for fault in uneven)
    try:
        stored = read_ends(path, group)
        wrong = episode_faults(path, stored, statistics.mode(n_rows.values()) if n_rows else 0)
        yield from (error("episodes", fault) for fault in wrong)
        data.ends = None if wrong or uneven else stored.astype(np.int64)
    except ReplayError as fault:
        yield error("episodes", fault)
    for key, handle in handles.items():
        try:
            yield from _stored(path, key, handle, data)
        except ReplayError as fault:
            yield error("read", fault)


def error(check: str, fault: ReplayError) -> Finding:
    """Return a fault as an error."""
    where = "" if fault.where == "store" else f"{fault.where}: "
    return Finding("error", check, where + fault.found, fault.fix)


def _stored(path: Path, key: str, handle: zarr.Array[Any], data: Gathered) -> Iterator[Finding]:
    """Check that an array is complete and finite, and gather it unless it is wide."""
    if not handle.size or not handle.shape:
        return  # nothing to read; length_faults names missing rows
    if handle.dtype.kind not in "biuf":
        yield Finding("note", "others", f"data/{key}: no numbers ({handle.dtype})", "")
        return
    with decoding(path, f"data/{key}"):
        absent = handle.nchunks - handle.nchunks_initialized
        bad: NDArray[np.int64] = nonfinite_rows(handle)  # reads every block: damage shows here
    if absent:
        found = f"data/{key}: {absent} of {handle.nchunks} chunks are not stored, "
        found += f"so they read as {handle.fill_value}"
        yield Finding("warning", "chunks", found, "copy the store again if files were lost")
    if bad.size:
        yield error("finite", nonfinite_fault(path, key, bad, data.ends))
    elif np.prod(handle.shape[1:]) <= MAX_COLUMNS:
        values = read_array(path, f"data/{key}", handle).astype(np.float64)
        data.arrays[key] = values.reshape(len(values), -1)
