"""Camera frames of demonstrations on disk, read row by row: memory holds what a batch needs.

Frames of a robomimic file that are stored in one piece are mapped where they are. Others (zarr, or
compressed HDF5) are decoded once into a file of bytes beside the run, and that file is mapped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.robomimic import array_names, masked, native_name, open_file
from pcm_policy.datasets.formats.store import (
    ReplayError,
    decoding,
    find_keys,
    open_group,
    row_blocks,
)
from pcm_policy.datasets.frame_cache import Image, cached_frames
from pcm_policy.datasets.open import is_hdf5


@dataclass(frozen=True, eq=False)
class Frames:
    """One camera's frames of all episodes, end to end.

    Attributes:
        parts: mapped arrays (n, H, W, 3), in order.
        starts: first row of each part.
    """

    parts: tuple[Image, ...]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Image]) -> "Frames":
        """Put arrays end to end."""
        ends = np.cumsum([len(part) for part in parts])
        return cls(tuple(parts), np.concatenate([[0], ends[:-1]]).astype(np.int64))

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self.starts[-1]) + len(self.parts[-1])

    def take(self, rows: NDArray[np.int64]) -> Image:
        """Read frames, (..., H, W, 3), of rows (...)."""
        flat = rows.ravel()
        found = np.empty((len(flat), *self.parts[0].shape[1:]), np.uint8)
        which = np.searchsorted(self.starts, flat, side="right") - 1
        for i in np.unique(which):
            at = which == i
            found[at] = self.parts[i][flat[at] - self.starts[i]]
        return found.reshape(*rows.shape, *found.shape[1:])


def open_frames(
    path: str | Path,
    key: str,
    size: tuple[int, int],
    cache: Path,
    filter_key: str | None = None,
    rows: int | None = None,
) -> Frames:
    """Open a camera's frames.

    Args:
        path: replay buffer or robomimic file.
        key: name of the array.
        size: height and width that are expected.
        cache: folder for decoded frames.
        filter_key: of a robomimic file, as for ``open_robomimic``.
        rows: only the first rows; None for all.

    Raises:
        ReplayError: the array is missing, damaged, or holds no RGB images of that size.
    """
    path = Path(path)
    if not is_hdf5(path):
        with open_group(path) as group:
            handle = find_keys(path, group, [key])[key]
            _check(path, f"data/{key}", handle, size)
            count = min(rows or handle.shape[0], handle.shape[0])
            with decoding(path, f"data/{key}"):
                return Frames.of([_decoded(path, key, [(f"data/{key}", handle)], count, cache)])
    with open_file(path) as file:
        demos = masked(path, file, filter_key)
        names = array_names(path, file, file["data"][demos[0]])
        native = names.get(key, native_name(key))
        handles = []
        for demo in demos:
            if native not in file["data"][demo]:
                found = f"missing; {demos[0]} holds {', '.join(names)}"
                raise ReplayError(path, f"{demo}: {native}", found, "name one of these")
            handles.append((f"{demo}: {native}", file["data"][demo][native]))
            _check(path, *handles[-1], size)
        if all(h.chunks is None and h.dtype == np.uint8 and h.id.get_offset() for _, h in handles):
            mapped: list[Image] = [
                np.memmap(path, np.uint8, "r", handle.id.get_offset(), handle.shape)
                for _, handle in handles
            ]
            return Frames.of(mapped)
        count = sum(len(handle) for _, handle in handles)
        count = min(rows or count, count)
        with decoding(path, native):
            return Frames.of([_decoded(path, key, handles, count, cache, filter_key)])


def joined_frames(first: Mapping[str, Frames], second: Mapping[str, Frames]) -> dict[str, Frames]:
    """Put the frames of two sets of demonstrations end to end."""
    return {k: Frames.of([*v.parts, *second[k].parts]) for k, v in first.items()}


def _check(path: Path, where: str, handle: Any, size: tuple[int, int]) -> None:
    if tuple(handle.shape[1:]) != (*size, 3) or handle.dtype.kind not in "uf":
        found = f"holds {tuple(handle.shape[1:])} {handle.dtype} a step"
        fix = f"expected images {(*size, 3)}, height, width and RGB: see task.cameras"
        raise ReplayError(path, where, found, fix)


def _decoded(
    path: Path,
    key: str,
    handles: Sequence[tuple[str, Any]],
    count: int,
    cache: Path,
    filter_key: str | None = None,
) -> Image:
    """Return a map of the file with the frames, which is made unless it is there already."""
    shape = (count, *handles[0][1].shape[1:])
    blocks = (_bytes(path, where, block) for where, block in _blocks(handles, count))
    return cached_frames(path, key, filter_key, shape, blocks, cache)


def _blocks(handles: Sequence[tuple[str, Any]], count: int) -> Iterator[tuple[str, NDArray[Any]]]:
    left = count
    for where, handle in handles:
        for block in row_blocks(handle):
            if left <= 0:
                return
            yield where, block[:left]
            left -= len(block)


def _bytes(path: Path, where: str, block: NDArray[Any]) -> Image:
    """Return frames as bytes; floats hold 0...255 or 0...1, as their largest value tells."""
    if block.dtype == np.uint8:
        return block
    if not np.isfinite(block).all() or block.min() < 0 or block.max() > 255:
        found = f"holds values from {block.min():g} to {block.max():g}"
        raise ReplayError(path, where, found, "expected images in 0...255")
    if 0 < block.max() <= 1:
        found = f"holds values up to {block.max():g}"
        raise ReplayError(path, where, found, "store images as 0...255, best as uint8")
    rounded: Image = np.rint(block).astype(np.uint8)
    return rounded
