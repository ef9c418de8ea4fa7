"""A demonstration store on disk: how it is opened, and every way in which it can be wrong.

A store is a folder or a ``.zip``, zarr format 2 or 3, holding ``data/<key>`` (all episodes of one
array end to end, time first) and ``meta/episode_ends`` (the row after the last of each episode).
"""

import statistics
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from pcm_policy.errors import PcmError, printable

_ENDS = "meta/episode_ends"
_BLOCK_VALUES = 4 << 20
# What zarr, its codecs and zipfile raise on damaged metadata or chunks.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile)


class ReplayError(PcmError):
    """One fault of one store: the file, the array, what was found there, and how to mend it."""

    def __init__(self, path: Path, where: str, found: str, fix: str) -> None:
        found = " ".join(found.split())
        super().__init__(path, where, found, fix)
        self.path, self.where, self.found, self.fix = path, where, found, fix

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.where}: {self.found}; {self.fix}")


@contextmanager
def open_group(path: str | Path) -> Iterator[zarr.Group]:
    """Open a store as the zarr group at its root; ReplayError when it is missing or damaged."""
    path = Path(path)
    try:
        if not path.exists():
            raise ReplayError(path, "store", "does not exist", "check the path")
        store = ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)
        group = zarr.open_group(store, mode="r", use_consolidated=False)
    except ReplayError:
        raise
    except PermissionError as error:
        found = f"cannot be read ({error.strerror})"
        raise ReplayError(path, "store", found, "ask for permission to read it") from error
    except zipfile.BadZipFile as error:
        fix = "it is cut short or no zip file at all: copy it again, or name a zarr folder"
        raise ReplayError(path, "store", f"cannot be unzipped ({error})", fix) from error
    except _READ_ERRORS as error:
        found = "has no zarr group at its root"
        fix = "name the folder or .zip file that directly holds data/ and meta/"
        raise ReplayError(path, "store", found, fix) from error
    try:
        yield group
    finally:
        store.close()


@contextmanager
def decoding(path: Path, where: str) -> Iterator[None]:
    """Turn what zarr and its codecs raise on damaged files into a ReplayError."""
    try:
        yield
    except _READ_ERRORS as error:
        fix = "copy the store again, or install the codec it was written with"
        found = f"cannot be decoded ({type(error).__name__}: {error})"
        raise ReplayError(path, where, found, fix) from error


def find_array(path: Path, group: zarr.Group, name: str) -> zarr.Array[Any] | None:
    """Return the array ``name``, unread, or None; ReplayError when its metadata are damaged."""
    with decoding(path, name):
        node = group.get(name)
    return node if isinstance(node, zarr.Array) else None


def find_keys(
    path: Path, group: zarr.Group, keys: Sequence[str] | None = None
) -> dict[str, zarr.Array[Any]]:
    """Return the arrays ``data/<key>``, unread: ``keys``, or all; ReplayError if one is missing."""
    if keys is not None:
        wanted = {key: find_array(path, group, f"data/{key}") for key in keys}
        present = {key: array for key, array in wanted.items() if array is not None}
        if len(present) == len(wanted):
            return present
    with decoding(path, "data"):
        node = group.get("data")
        there = dict(sorted(node.arrays())) if isinstance(node, zarr.Group) else {}
        root = ", ".join(sorted(group.keys())) or "nothing"
    if not there:
        found = f"missing or without arrays; the store holds {root}"
        raise ReplayError(path, "data", found, "expected data/<key> and meta/episode_ends")
    for key in keys or ():
        if key not in there:
            found = f"missing; data holds {', '.join(there)}"
            raise ReplayError(path, f"data/{key}", found, "name one of these")
    return there


def read_array(path: Path, where: str, array: zarr.Array[Any]) -> NDArray[Any]:
    """Read a whole array; ReplayError names it as ``where`` if a chunk is damaged."""
    with decoding(path, where):
        return np.asarray(array[...])


def row_blocks(array: Any) -> Iterator[NDArray[Any]]:
    """Yield consecutive blocks of rows, a few million values each, made of whole chunks.

    Args:
        array: of numpy, zarr or HDF5.
    """
    chunk = (getattr(array, "chunks", None) or [1])[0]
    per_chunk = chunk * max(1, int(np.prod(array.shape[1:])))
    rows = chunk * max(1, _BLOCK_VALUES // per_chunk)
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows])


def nonfinite_rows(array: Any) -> NDArray[np.int64]:
    """Return the rows that hold a NaN or an infinity (floats alone can); reads every block."""
    bad, start = [np.empty(0, dtype=np.int64)], 0
    for block in row_blocks(array):
        if block.dtype.kind == "f":
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            bad.append(start + np.flatnonzero(~finite))
        start += len(block)
    return np.concatenate(bad)


def place(row: int, ends: NDArray[np.int64] | None) -> str:
    """Name a row for a message, with its episode where the episode ends are known to be good."""
    if ends is None:
        return f"row {row}"
    return f"row {row} (episode {np.searchsorted(ends, row, side='right')})"


def nonfinite_fault(
    path: Path, key: str, rows: NDArray[np.int64], ends: NDArray[np.int64] | None
) -> ReplayError:
    """Describe NaN or infinite values at ``rows`` (not empty) of ``data/<key>``."""
    found = f"NaN or inf in {len(rows)} rows, first at {place(rows[0], ends)}"
    return ReplayError(path, f"data/{key}", found, "repair or drop the episodes it is in")


def count_rows(arrays: Mapping[str, NDArray[Any] | zarr.Array[Any]]) -> dict[str, int]:
    """Return the length of each array's first axis, 0 where it has none."""
    return {key: array.shape[0] if array.shape else 0 for key, array in arrays.items()}


def length_faults(path: Path, n_rows: Mapping[str, int]) -> list[ReplayError]:
    """Return one fault for each array whose number of rows is not the usual one."""
    usual = statistics.mode(n_rows.values()) if n_rows else 0
    model = next((key for key, n in n_rows.items() if n == usual), "")
    fix = "write every array once per step"
    return [
        ReplayError(path, f"data/{key}", f"has {n} rows where data/{model} has {usual}", fix)
        for key, n in n_rows.items()
        if n != usual
    ]


def episode_faults(path: Path, ends: NDArray[Any], n_steps: int) -> list[ReplayError]:
    """Return every fault of the array ``meta/episode_ends`` over data of ``n_steps`` rows."""
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not ends.size:
        found = f"has shape {ends.shape} and dtype {ends.dtype}, expected (n_episodes,) int64"
        return [ReplayError(path, _ENDS, found, "store the cumulative end row of every episode")]
    faults: list[tuple[str, str]] = []
    ends = ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if (back := np.flatnonzero(lengths < 0)).size:
        i, end, before = back[0], ends[back[0]], (ends - lengths)[back[0]]
        found = f"{back.size} entries decrease, first entry {i} ({end} after {before})"
        faults.append((found, "store cumulative end rows in order, not the lengths"))
    if (empty := np.flatnonzero(lengths == 0)).size:
        i, end = empty[0], ends[empty[0]]
        found = f"{empty.size} episodes are empty, first episode {i} (ends at {end})"
        faults.append((found, "remove the repeated entries"))
    last = int(ends.max())
    if last > n_steps:
        found = f"reaches row {last}, past the {n_steps} rows of the data"
        faults.append((found, "copy the store again, or remove the episodes past the end"))
    elif last < n_steps:
        found = f"stops at row {last}, short of the {n_steps} rows of the data"
        faults.append((found, f"add the missing ends, or cut the arrays to {last} rows"))
    return [ReplayError(path, _ENDS, found, fix) for found, fix in faults]


def read_ends(path: Path, group: zarr.Group) -> NDArray[Any]:
    """Read ``meta/episode_ends`` as stored, unchecked; ReplayError when missing or damaged."""
    array = find_array(path, group, _ENDS)
    if array is None:
        with decoding(path, "meta"):
            node = group.get("meta")
            there = ", ".join(sorted(node.keys())) if isinstance(node, zarr.Group) else ""
        found = f"missing; meta holds {there or 'nothing'}"
        raise ReplayError(path, _ENDS, found, "store the cumulative end row of every episode there")
    return read_array(path, _ENDS, array)
