"""A replay buffer on disk: how it is opened, and every way in which it can be wrong.

A store is a folder or a ``.zip``, zarr format 2 or 3, holding ``data/<key>`` (all episodes of one
array end to end, time first) and ``meta/episode_ends`` (the row after the last of each episode).
"""

from __future__ import annotations

import importlib
import os
import statistics
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.errors import UnknownCodecError
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from pcm_policy.datasets.errors import ReplayError as ReplayError
from pcm_policy.datasets.errors import place
from pcm_policy.datasets.trust import check_memory, check_size, refuse_links_outside
from pcm_policy.datasets.unknown import what_it_is

_ENDS = "meta/episode_ends"
_BLOCK_VALUES = 4 << 20
_MARKS = (".zarray", ".zgroup", "zarr.json")
# What zarr, its codecs and zipfile raise on damaged metadata or chunks.
_READ_ERRORS = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile
)  # fmt: skip


@contextmanager
def open_group(path: str | Path) -> Iterator[zarr.Group]:
    """Open a store as the zarr group at its root; ReplayError when it is missing or damaged."""
    path = Path(path)
    try:
        if not path.exists():
            raise ReplayError(path, "store", "does not exist", "check the path")
        if path.is_dir():
            refuse_links_outside(path)
        store = ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)
        group = zarr.open_group(store, mode="r", use_consolidated=False)
    except ReplayError:
        raise
    except PermissionError as error:
        found = f"cannot be read ({error.strerror})"
        raise ReplayError(path, "store", found, "ask for permission to read it") from error
    except zipfile.BadZipFile as error:
        fix = "it is cut short or no zip file at all: copy it again, or name a zarr folder"
        found, fix = what_it_is(path) or (f"cannot be unzipped ({error})", fix)
        raise ReplayError(path, "store", found, fix) from error
    except _READ_ERRORS as error:
        found = "has no zarr group at its root"
        fix = "name the folder or .zip file that directly holds data/ and meta/"
        found, fix = what_it_is(path) or (found, fix)
        raise ReplayError(path, "store", found, fix) from error
    try:
        yield group
    finally:
        store.close()


@contextmanager
def decoding(path: Path, where: str, array: str | None = None) -> Iterator[None]:
    """Turn what zarr and its codecs raise on damaged files into a ReplayError."""
    try:
        yield
    except ReplayError:
        raise
    except UnknownCodecError as error:
        codec = str(error).rpartition(" ")[2].strip("'\"")
        package = "imagecodecs" if codec.startswith("imagecodecs_") else "the package that has it"
        found = f"is compressed with the codec {codec}, which is not installed"
        raise ReplayError(path, where, found, f"pip install {package}", array) from error
    except _READ_ERRORS as error:
        fix = "copy the store again, or install the codec it was written with"
        found = f"cannot be decoded ({type(error).__name__}: {error})"
        raise ReplayError(path, where, found, fix, array) from error


def find_array(path: Path, group: zarr.Group, name: str) -> zarr.Array[Any] | None:
    """Return the array ``name``, unread, or None.

    Codecs of the package imagecodecs are registered where they are needed and it is installed.

    Raises:
        ReplayError: its metadata are damaged, its codec is not installed, or it says to be far
            larger than it is stored.
    """
    key = name.removeprefix("data/")
    with decoding(path, name, key):
        try:
            node = group.get(name)
        except UnknownCodecError:
            if not _register_imagecodecs():
                raise
            node = group.get(name)
    if not isinstance(node, zarr.Array):
        return None
    chunk = int(np.prod(node.chunks, dtype=object)) * node.dtype.itemsize
    declared = max(node.nbytes, chunk)  # a chunk is decoded whole
    check_size(path, name, declared, _stored_bytes(path, name, declared), key)
    return node


def _register_imagecodecs() -> bool:
    try:
        codecs = importlib.import_module("imagecodecs.numcodecs")
    except ImportError:
        return False
    codecs.register_codecs(verbose=False)
    return True


def _stored_bytes(path: Path, name: str, declared: int) -> int:
    """Return the bytes of an array's files, as they are on disk."""
    if declared < 1 << 30:
        return declared  # never refused: not worth the look
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        return sum(e.compress_size for e in entries if e.filename.startswith(f"{name}/"))
    return sum(f.stat().st_size for f in (path / name).rglob("*") if f.is_file())


def members(path: Path) -> list[str]:
    """Return the groups and arrays of a store by their places, read off its file names."""
    if path.is_file():
        with decoding(path, "store"), zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/") for name in archive.namelist()]
        return sorted({head for head, _, last in names if last in _MARKS and head})
    found: list[str] = []
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        if (folder / ".zarray").exists():
            continue  # its files are chunks
        for entry in os.scandir(folder):
            below = Path(entry.path)
            if entry.is_dir() and any((below / mark).is_file() for mark in _MARKS):
                found.append(below.relative_to(path).as_posix())
                if not entry.is_symlink():  # a link could lead round in a circle
                    waiting.append(below)
    return sorted(found)


def open_arrays(
    path: Path, group: zarr.Group
) -> tuple[dict[str, zarr.Array[Any]], dict[str, ReplayError], list[str]]:
    """Open every array ``data/<key>``, unread.

    Returns:
        The arrays; the faults of those that cannot be opened, both by key; and the places of what
        is deeper inside ``data``, where no array of steps is looked for.

    Raises:
        ReplayError: there are none.
    """
    there = members(path)
    keys = [name[5:] for name in there if name.startswith("data/")]
    arrays: dict[str, zarr.Array[Any]] = {}
    faults: dict[str, ReplayError] = {}
    groups = []
    for key in keys:
        if any(key.startswith(f"{name}/") for name in keys):
            continue
        try:
            array = find_array(path, group, f"data/{key}")
        except ReplayError as fault:
            faults[key] = fault
            continue
        if array is None:
            groups.append(key)
        else:
            arrays[key] = array
    if not arrays and not faults:
        root = ", ".join(sorted({name.partition("/")[0] for name in there})) or "nothing"
        found = f"missing or without arrays; the store holds {root}"
        raise ReplayError(path, "data", found, "expected data/<key> and meta/episode_ends")
    deeper = [k for k in keys if any(k.startswith(f"{name}/") for name in groups)]
    return arrays, faults, [f"data/{key}" for key in deeper or groups]


def find_keys(
    path: Path, group: zarr.Group, keys: Sequence[str] | None = None
) -> dict[str, zarr.Array[Any]]:
    """Return the arrays ``data/<key>``, unread: ``keys``, or all; ReplayError if one is missing."""
    if keys is not None:
        wanted = {key: find_array(path, group, f"data/{key}") for key in keys}
        present = {key: array for key, array in wanted.items() if array is not None}
        if len(present) == len(wanted):
            return present
    there, faults, _ = open_arrays(path, group)
    for key in keys or ():
        if key not in there:
            found = f"missing; data holds {', '.join(there)}"
            raise ReplayError(path, f"data/{key}", found, "name one of these")
    for fault in faults.values():
        raise fault
    return there


def read_array(path: Path, where: str, array: zarr.Array[Any]) -> NDArray[Any]:
    """Read a whole array; ReplayError names it as ``where`` if a chunk is damaged."""
    check_memory(path, where, array.nbytes)
    with decoding(path, where, where.removeprefix("data/")):
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
        ReplayError(path, f"data/{key}", f"has {n} rows where data/{model} has {usual}", fix, key)
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
        there = ", ".join(name[5:] for name in members(path) if name.startswith("meta/"))
        found = f"missing; meta holds {there or 'nothing'}"
        raise ReplayError(path, _ENDS, found, "store the cumulative end row of every episode there")
    return read_array(path, _ENDS, array)
