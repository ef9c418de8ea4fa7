"""Which rows of which files are which step of which episode of a LeRobot folder.

Rows are found by their ``episode_index`` and ``frame_index``, whatever their order. What the
folder says of itself (``info.json``, ``meta/episodes``) must agree with the rows that are there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.lerobot_info import Info, damaged
from pcm_policy.datasets.trust import check_size
from pcm_policy.optional import require

OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that LeRobot writes itself."""
_TIME = 1e-4  # seconds; LeRobot's own tolerance
_ROW_BYTES = 8


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a file that are consecutive steps of an episode."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class Index:
    """Where everything is.

    Attributes:
        files: the parquet files.
        schemas: the type of every column, by name, for each file.
        runs: for each episode, its rows in the order of its steps.
        own_times: whether ``timestamp`` says more than ``frame_index`` and the rate.
        own_tasks: whether ``task_index`` is another than 0 anywhere.
    """

    files: tuple[Path, ...]
    schemas: tuple[Mapping[str, Any], ...]
    runs: tuple[tuple[Run, ...], ...]
    own_times: bool
    own_tasks: bool

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        return [sum(run.stop - run.start for run in runs) for runs in self.runs]


class _Rows:
    """The index columns of all files, file after file."""

    def __init__(self) -> None:
        self.episode: list[NDArray[np.int64]] = []
        self.frame: list[NDArray[np.int64]] = []
        self.irregular = self.tasks = False


def read_index(path: Path, files: Sequence[Path], info: Info) -> Index:
    """Find the rows of every episode.

    Raises:
        PcmError: pyarrow is not installed; or a ReplayError: a file is damaged or lacks a column,
            a step is there twice or missing, or the folder is not complete.
    """
    rows = _Rows()
    schemas = [_read(path, file, info.fps, rows) for file in files]
    counts = [len(episode) for episode in rows.episode]
    episode, frame = np.concatenate(rows.episode), np.concatenate(rows.frame)
    which = np.repeat(np.arange(len(files)), counts)
    row = np.concatenate([np.arange(n) for n in counts])
    order = np.lexsort((frame, episode))  # stable: equal steps stay in the order of the files
    episode, frame, which, row = (x[order] for x in (episode, frame, which, row))
    ends = _check_steps(path, files, info, episode, frame, which)
    check_lengths(path, info, np.diff(ends, prepend=0))
    runs = _runs(ends, which, row)
    return Index(tuple(files), tuple(schemas), runs, rows.irregular, rows.tasks)


def _read(path: Path, file: Path, fps: float, rows: _Rows) -> Mapping[str, Any]:
    """Read the index columns of a file; return its schema."""
    pq = require("pyarrow.parquet", "a LeRobot dataset", "convert")
    where = str(file.relative_to(path))
    try:
        opened = pq.ParquetFile(file)
        schema = {field.name: field.type for field in opened.schema_arrow}
        count = opened.metadata.num_rows
        check_size(path, where, _ROW_BYTES * count * len(schema), file.stat().st_size)
        for column in ("episode_index", "frame_index"):
            if column not in schema:
                found = f"lacks the column {column}, which LeRobot writes"
                raise ReplayError(path, where, found, "write it again with LeRobot")
        table = opened.read([name for name in OWN[:3] + OWN[4:] if name in schema])
        columns = {name: table[name].to_numpy() for name in table.column_names}
    except (OSError, KeyError, ValueError, MemoryError) as error:
        if isinstance(error, ReplayError):
            raise
        raise damaged(path, file, error) from error
    for name in ("episode_index", "frame_index"):
        if columns[name].dtype.kind not in "iu":
            found = f"{name} holds {columns[name].dtype}, or rows without a value"
            raise ReplayError(path, where, found, "write it again with LeRobot")
        columns[name] = columns[name].astype(np.int64)
    rows.episode.append(columns["episode_index"])
    rows.frame.append(columns["frame_index"])
    rows.irregular |= _irregular(columns.get("timestamp"), columns["frame_index"], fps)
    tasks = columns.get("task_index")
    rows.tasks |= tasks is not None and bool((tasks != 0).any())
    return schema


def _irregular(time: NDArray[Any] | None, frame: NDArray[np.int64], fps: float) -> bool:
    """Say whether times are others than those of the rate."""
    if time is None or not time.size:
        return False
    if time.dtype.kind not in "iuf":
        return True
    return not bool(np.abs(time - frame / fps).max() <= _TIME)  # NaN is irregular


def _check_steps(
    path: Path,
    files: Sequence[Path],
    info: Info,
    episode: NDArray[np.int64],
    frame: NDArray[np.int64],
    which: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Check that every step is there once; return the row after the last of each episode."""
    if not episode.size:
        raise ReplayError(path, "data", "holds no rows", "download it again")
    again = (np.diff(episode) == 0) & (np.diff(frame) == 0)
    if again.any():
        i = int(np.flatnonzero(again)[0])
        names = sorted({str(files[w].relative_to(path)) for w in which[i : i + 2]})
        found = f"episode {episode[i]} step {frame[i]} is there twice, in {' and '.join(names)}"
        fix = "keep one of the files" if len(names) > 1 else "write it again with LeRobot"
        raise ReplayError(path, "data", found, fix)
    numbers, starts = np.unique(episode, return_index=True)
    said, count = info.total("total_episodes"), len(numbers)
    off = np.flatnonzero(numbers != np.arange(count))
    missing = int(off[0]) if off.size else count
    if off.size or (said is not None and said > count):
        of = f" of {said}" if said is not None and said > count else ""
        found = f"episode {missing} is missing: {count} episodes{of} are numbered up to "
        found += str(numbers[-1])
        raise ReplayError(path, "data", found, "download the missing files")
    ends = np.append(starts[1:], len(episode))
    expected = np.arange(len(episode)) - np.repeat(starts, ends - starts)
    if (wrong := np.flatnonzero(frame != expected)).size:
        i = wrong[0]
        found = f"episode {episode[i]} has no step {expected[i]}, the next is {frame[i]}"
        raise ReplayError(path, "data", found, "download the missing files")
    return ends.astype(np.int64)


def check_lengths(path: Path, info: Info, lengths: NDArray[np.int64]) -> None:
    """Compare the episodes' lengths with what the folder says of them.

    Raises:
        ReplayError: they differ.
    """
    for number, said in _said(path, info).items():
        if 0 <= number < len(lengths) and said != lengths[number]:
            found = f"episode {number} has {lengths[number]} of the {said} steps it should have"
            raise ReplayError(path, "data", found, "download the missing files")
    total, there = info.total("total_frames"), int(lengths.sum())
    if total is not None and total > there:
        found = f"{there} of the {total} steps that info.json counts are there"
        raise ReplayError(path, "data", found, "download the missing files")
    if total is not None and total != there:
        found = f"{there} steps are there, info.json counts {total}"
        fix = "correct total_frames in meta/info.json if all of them belong to it"
        raise ReplayError(path, "data", found, fix)


def _said(path: Path, info: Info) -> dict[int, int]:
    """Return the lengths that ``meta/episodes`` says, by episode; none where it says nothing."""
    lines = path / "meta/episodes.jsonl"
    rows: list[Any] = []
    try:
        if info.version == "3":
            pq = require("pyarrow.parquet", "a LeRobot dataset", "convert")
            for file in sorted((path / "meta/episodes").glob("*/*.parquet")):
                if {"episode_index", "length"} <= set(pq.read_schema(file).names):
                    rows += pq.read_table(file, columns=["episode_index", "length"]).to_pylist()
        elif lines.is_file():
            rows = [json.loads(text) for text in lines.read_text().splitlines() if text.strip()]
        return {int(row["episode_index"]): int(row["length"]) for row in rows if "length" in row}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"cannot be read ({' '.join(str(error).split())})"
        raise ReplayError(path, "meta/episodes", found, "download it again") from error


def _runs(
    ends: NDArray[np.int64], which: NDArray[np.int64], row: NDArray[np.int64]
) -> tuple[tuple[Run, ...], ...]:
    """Cut the rows of every episode where the file changes or a row is skipped."""
    cut = np.flatnonzero((np.diff(which) != 0) | (np.diff(row) != 1)) + 1
    bounds = np.unique(np.concatenate([[0], cut, ends]))
    runs = [
        Run(int(which[a]), int(row[a]), int(row[b - 1]) + 1) for a, b in pairwise(bounds.tolist())
    ]
    first = np.searchsorted(bounds, np.concatenate([[0], ends]))
    return tuple(tuple(runs[a:b]) for a, b in pairwise(first.tolist()))
