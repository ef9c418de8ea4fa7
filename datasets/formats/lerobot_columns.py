"""Columns of a LeRobot folder as arrays, a run of rows at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.lerobot_images import pictures
from pcm_policy.datasets.formats.lerobot_index import Index, Run
from pcm_policy.datasets.recording import Episode
from pcm_policy.optional import require

_BATCH_ROWS = 10_000
_BATCH_PICTURES = 64  # rows, where they hold pictures


def read_episodes(
    path: Path, index: Index, fields: Mapping[str, np.dtype[Any]]
) -> Iterator[Episode]:
    """Yield the episodes; what is held is one episode, and one batch of rows.

    Args:
        path: the folder.
        index: where the rows are.
        fields: shape and type of a step of every column.

    Raises:
        ReplayError: a column is missing in a file, or holds something else.
    """
    wide = any(kind.ndim >= 3 for kind in fields.values())
    reader = _Reader(path, index, fields, _BATCH_PICTURES if wide else _BATCH_ROWS)
    for runs in index.runs:
        parts = [part for run in runs for part in reader.read(run)]
        yield {name: np.concatenate([part[name] for part in parts]) for name in fields}


class _Reader:
    """Goes through one file from a row on, and begins anew only for rows that lie behind."""

    def __init__(
        self, path: Path, index: Index, fields: Mapping[str, np.dtype[Any]], rows: int
    ) -> None:
        self.path, self.index, self.fields, self.rows = path, index, fields, rows
        self.file = -1
        self.start = self.stop = 0
        self.held: Episode = {}
        self.batches: Iterator[Any] = iter(())

    def read(self, run: Run) -> Iterator[Episode]:
        """Yield the rows of a run in one piece or several."""
        at = run.start
        while at < run.stop:
            if run.file != self.file or at < self.start:
                self._begin(run.file, at)
            while at >= self.stop:
                self._next()
            stop = min(run.stop, self.stop)
            part = slice(at - self.start, stop - self.start)
            yield {name: values[part] for name, values in self.held.items()}
            at = stop

    def _begin(self, number: int, row: int) -> None:
        """Open a file at the row group that holds a row."""
        pq = require("pyarrow.parquet", "a LeRobot dataset", "convert")
        missing = [name for name in self.fields if name not in self.index.schemas[number]]
        where = str(self.index.files[number].relative_to(self.path))
        if missing:
            found = f"lacks the column {missing[0]}, which other files have"
            raise ReplayError(self.path, where, found, "download it again", missing[0])
        opened = pq.ParquetFile(self.index.files[number])
        groups = opened.metadata.num_row_groups
        ends = np.cumsum([opened.metadata.row_group(i).num_rows for i in range(groups)])
        first = int(np.searchsorted(ends, row, side="right"))
        self.file, self.start = number, int(ends[first - 1]) if first else 0
        self.stop, self.held = self.start, {}
        self.batches = opened.iter_batches(
            self.rows, row_groups=range(first, groups), columns=list(self.fields)
        )

    def _next(self) -> None:
        where = str(self.index.files[self.file].relative_to(self.path))
        try:
            batch = next(self.batches)
        except (StopIteration, OSError, ValueError) as error:
            found = f"cannot be read ({' '.join(str(error).split())})"
            raise ReplayError(self.path, where, found, "download it again") from error
        self.start, self.stop = self.stop, self.stop + batch.num_rows
        self.held = {
            name: column_values(self.path, batch.column(name), name, kind)
            for name, kind in self.fields.items()
        }


def leaf_type(kind: Any) -> tuple[Any, int]:
    """Return the type inside of lists, and how many lists there are."""
    depth = 0
    while hasattr(kind, "storage_type"):
        kind = kind.storage_type
    while hasattr(kind, "value_type") and hasattr(kind, "value_field"):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def column_values(path: Path, column: Any, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """Turn a column, nested or not, into ``(rows, *shape)``.

    Raises:
        ReplayError: a row has no value or another number of values, or its values are others in
            the type that ``info.json`` says.
    """
    rows = len(column)
    if hasattr(column.type, "storage_type"):
        column = column.storage
    if hasattr(column.type, "get_field_index"):  # a struct: bytes and path of a picture
        whole = pictures(path, column, name, np.dtype((np.uint8, kind.shape)))
        return whole.astype(kind.base, copy=False)
    sizes: list[int] = []
    while hasattr(column.type, "value_type") and hasattr(column, "flatten"):
        sizes.append(_even(path, column, name, kind))
        column = column.flatten()
    if column.null_count:
        raise _fault(path, name, f"has {column.null_count} values that are missing", "repair them")
    if sizes not in (list(kind.shape), [int(np.prod(kind.shape, dtype=int))]) and (
        sizes or kind.shape not in ((), (1,))
    ):
        found = f"has steps of shape {tuple(sizes)}, info.json says {kind.shape}"
        raise _fault(path, name, found, "correct the shape in meta/info.json")
    values = column.to_numpy(zero_copy_only=False)
    return _cast(path, name, np.asarray(values), kind.base).reshape(rows, *kind.shape)


def _even(path: Path, column: Any, name: str, kind: np.dtype[Any]) -> int:
    """Return the length of a column's lists, which is the same in all of them."""
    pc = require("pyarrow.compute", "a LeRobot dataset", "convert")
    if column.null_count:
        found = f"has {column.null_count} rows without a value"
        raise _fault(path, name, found, "repair or drop them")
    lengths = pc.list_value_length(column)
    bounds = pc.min_max(lengths).as_py()
    if bounds["min"] != bounds["max"]:
        found = f"has {bounds['min']} to {bounds['max']} values a row, info.json says {kind.shape}"
        raise _fault(path, name, found, "write as many in every row")
    return int(bounds["min"] or 0)


def _cast(path: Path, name: str, values: NDArray[Any], base: np.dtype[Any]) -> NDArray[Any]:
    """Cast to the type of ``info.json``, as LeRobot does, where no value changes by it."""
    if values.dtype == base:
        return values
    if values.dtype.kind in "biuf":
        with np.errstate(all="ignore"):
            cast = values.astype(base)
            same = cast.astype(values.dtype)
        nan = values.dtype.kind == "f" and base.kind == "f"
        # there and back, and as numbers: -1 comes back from 255 of uint8
        if all(np.array_equal(x, values, equal_nan=nan) for x in (same, cast)):
            return cast
    found = f"holds {values.dtype} that {base}, which info.json says, cannot hold"
    fix = f"write {values.dtype} as its dtype in meta/info.json if that is right"
    raise _fault(path, name, found, fix)


def _fault(path: Path, name: str, found: str, fix: str) -> ReplayError:
    return ReplayError(path, name, found, fix, name)
