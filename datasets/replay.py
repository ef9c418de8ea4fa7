"""Demonstrations in Diffusion Policy's zarr layout: checked when read, whole when written.

A store is a folder or a ``.zip`` holding ``data/<key>`` (all episodes of one array end to end,
time first) and ``meta/episode_ends`` (the row after the last of each episode, cumulative).
"""

import statistics
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore, ZipStore

from pcm_policy.errors import PcmError

_ENDS = "meta/episode_ends"
_CHUNK_BYTES = 2 << 20
_PENDING_BYTES = 64 << 20
_BLOCK_VALUES = 4 << 20
# What zarr, its codecs and zipfile raise on damaged metadata or chunks.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile)


class ReplayError(PcmError):
    """One fault of one store: the file, the array, what was found there, and how to mend it."""

    def __init__(self, path: Path, where: str, found: str, fix: str) -> None:
        super().__init__(path, where, " ".join(found.split()), fix)
        self.path, self.where, self.found, self.fix = path, where, " ".join(found.split()), fix

    def __str__(self) -> str:
        return f"{self.path}: {self.where}: {self.found}; {self.fix}"


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


@contextmanager
def open_group(path: str | Path) -> Iterator[zarr.Group]:
    """Open a store for reading, as the zarr group at its root.

    Raises:
        ReplayError: nothing at ``path``, not a zarr store, or a truncated or damaged zip file.
    """
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
    """Return the array at ``name`` (``data/action``) without reading it, or None.

    Raises:
        ReplayError: its metadata cannot be read.
    """
    with decoding(path, name):
        node = group.get(name)
    return node if isinstance(node, zarr.Array) else None


def find_keys(
    path: Path, group: zarr.Group, keys: Sequence[str] | None = None
) -> dict[str, zarr.Array[Any]]:
    """Return the arrays ``data/<key>`` without reading them: ``keys``, or all that there are.

    Raises:
        ReplayError: no ``data`` group, no array of that key, or metadata that cannot be read.
    """
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


def row_blocks(array: NDArray[Any] | zarr.Array[Any]) -> Iterator[NDArray[Any]]:
    """Yield consecutive blocks of rows, a few million values each, made of whole zarr chunks."""
    chunk = array.chunks[0] if isinstance(array, zarr.Array) else 1
    per_chunk = chunk * max(1, int(np.prod(array.shape[1:])))
    rows = chunk * max(1, _BLOCK_VALUES // per_chunk)
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows])


def nonfinite_rows(array: NDArray[Any] | zarr.Array[Any]) -> NDArray[np.int64]:
    """Return the rows that hold a NaN or an infinity (none for integer arrays)."""
    if array.dtype.kind != "f":
        return np.empty(0, dtype=np.int64)
    finite = [np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in row_blocks(array)]
    return np.flatnonzero(~np.concatenate(finite)) if finite else np.empty(0, dtype=np.int64)


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
        before = ends[back[0] - 1] if back[0] else 0
        found = (
            f"{back.size} entries decrease, first entry {back[0]} ({ends[back[0]]} after {before})"
        )
        faults.append((found, "store cumulative end rows in order, not the lengths"))
    if (empty := np.flatnonzero(lengths == 0)).size:
        found = (
            f"{empty.size} episodes are empty, first episode {empty[0]} (ends at {ends[empty[0]]})"
        )
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


class _Writer:
    """Append episodes to a new folder store, holding rows back to write many at once."""

    def __init__(
        self, path: Path, folder: Path, attrs: Mapping[str, Any], zarr_format: Literal[2, 3]
    ) -> None:
        self.path = path
        self.root = zarr.open_group(
            folder, mode="w", zarr_format=zarr_format, attributes=dict(attrs)
        )
        self.data = self.root.create_group("data")
        self.codec = (
            Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
            if zarr_format == 2
            else BloscCodec(cname="zstd", clevel=5)
        )
        self.arrays: dict[str, zarr.Array[Any]] = {}
        self.pending: list[dict[str, NDArray[Any]]] = []
        self.pending_bytes = 0
        self.ends: list[int] = []

    def add(self, episode: Mapping[str, NDArray[Any]]) -> None:
        """Take a copy of one episode; ReplayError when it does not fit those before it."""
        copy = {key: np.array(values) for key, values in episode.items()}
        self._check(copy)
        steps = len(next(iter(copy.values())))
        self.ends.append(steps + (self.ends[-1] if self.ends else 0))
        self.pending.append(copy)
        self.pending_bytes += sum(values.nbytes for values in copy.values())
        if self.pending_bytes > _PENDING_BYTES:
            self.flush()

    def _check(self, episode: Mapping[str, NDArray[Any]]) -> None:
        model = self.pending[0] if self.pending else self.arrays
        n_rows = count_rows(episode)
        if len(set(n_rows.values())) != 1 or 0 in n_rows.values():
            raise self._fault(f"has rows {n_rows}, expected the same number, at least 1")
        if model and set(model) != set(episode):
            raise self._fault(f"has arrays {sorted(episode)}, the first has {sorted(model)}")
        for key, values in episode.items():
            step, first = (f"{x.shape[1:]} {x.dtype}" for x in (values, model.get(key, values)))
            if step != first:
                raise self._fault(f"{key} has steps of {step}, the first episode of {first}")
            if values.dtype.kind not in "biuf" or not values.size or "/" in key:
                fix = "expected numbers, no empty axis, and no slash in the key"
                raise self._fault(f"{key!r} has steps of {step}", fix)
            if (rows := nonfinite_rows(values)).size:
                raise self._fault(f"{key} holds NaN or inf at step {rows[0]}", "drop or repair it")

    def _fault(
        self, found: str, fix: str = "give every episode the same arrays, one row a step"
    ) -> ReplayError:
        return ReplayError(self.path, f"episode {len(self.ends)}", found, fix)

    def flush(self) -> None:
        """Write what is held back."""
        for key in self.pending[0] if self.pending else ():
            rows = np.concatenate([episode[key] for episode in self.pending])
            if key not in self.arrays:
                per_chunk = max(1, _CHUNK_BYTES // rows[0].nbytes)
                self.arrays[key] = self.data.create_array(
                    key,
                    shape=(0, *rows.shape[1:]),
                    chunks=(per_chunk, *rows.shape[1:]),
                    dtype=rows.dtype,
                    compressors=self.codec,
                    config={"write_empty_chunks": True},
                )
            self.arrays[key].append(rows)
        self.pending, self.pending_bytes = [], 0

    def finish(self) -> None:
        """Write the rest and the episode ends."""
        self.flush()
        ends = np.asarray(self.ends, dtype=np.int64)
        self.root.create_group("meta").create_array(
            "episode_ends", data=ends, compressors=self.codec
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free some space or choose another folder"
        raise ReplayError(path, "store", f"cannot be written ({error.strerror})", fix) from error


def write_replay(
    path: str | Path,
    episodes: Iterable[Mapping[str, NDArray[Any]]],
    *,
    attrs: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Write episodes, taken one at a time, as a store that appears at ``path`` whole or not at all.

    Args:
        path: a new folder, or a file if it ends in ``.zip``; missing parents are made.
        episodes: for each, arrays of its steps by key: (steps, ...), finite numbers.
        attrs: attributes of the root group, as JSON holds them.
        zarr_format: 2 is read by every zarr, 3 by zarr 3 alone.

    Raises:
        ReplayError: ``path`` exists or cannot be written, there are no episodes, or one is empty,
            holds NaN or inf, or has other arrays than the first.
    """
    path = Path(path)
    with _writing(path):
        if path.exists():
            raise ReplayError(path, "store", "exists already", "remove it or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    # zarr writes from threads of its own, and Ctrl-C in the main one would leave them writing into
    # the folder that is being removed: the worker is not interrupted, and leaving it waits for it.
    with scratch as folder, ThreadPoolExecutor(1) as worker:
        store = Path(folder, "store")
        with _writing(path):
            writer = _Writer(path, store, attrs or {}, zarr_format)
        for episode in episodes:  # outside _writing: an OSError of the source is not ours
            with _writing(path):
                worker.submit(writer.add, episode).result()
        if not writer.ends:
            raise ReplayError(path, "store", "no episodes to write", "give at least one")
        with _writing(path):
            worker.submit(writer.finish).result()
            (_zip(store) if path.suffix == ".zip" else store).rename(path)


def _zip(folder: Path) -> Path:
    """Pack a folder store, already compressed, into a zip file beside it."""
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return packed
