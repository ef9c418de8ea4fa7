"""Camera frames of demonstrations on disk, read row by row: memory holds what a batch needs.

Frames of a robomimic file that are stored in one piece are mapped where they are. Others (zarr,
compressed HDF5, videos) are decoded once, a block at a time, into a file of bytes beside the run,
and that file is mapped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.loading import FrameSource
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.frame_cache import Image, cached_frames


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
        path: demonstrations of any format.
        key: name of the array.
        size: height and width that are expected.
        cache: folder for decoded frames.
        filter_key: of a robomimic file, as for ``open_robomimic``.
        rows: only the first rows; None for all.

    Raises:
        ReplayError: the array is missing, damaged, or holds no RGB images of that size.
    """
    path = Path(path)
    known = source_format(path)
    source = known.camera(path, key, filter_key)
    if source.step.shape != (*size, 3) or source.step.base.kind not in "uf":
        found = f"holds {source.step.shape} {source.step.base} a step"
        fix = f"expected images {(*size, 3)}, height, width and RGB: see task.cameras"
        raise ReplayError(path, source.where, found, fix)
    if source.mapped:
        return Frames.of(source.mapped)
    shape = (source.count if rows is None else min(rows, source.count), *source.step.shape)
    blocks = (_bytes(path, where, block) for where, block in _first(source, shape[0]))
    decoded = cached_frames(known.place(path), key, filter_key, shape, blocks, cache)
    return Frames.of([decoded])


def joined_frames(first: Mapping[str, Frames], second: Mapping[str, Frames]) -> dict[str, Frames]:
    """Put the frames of two sets of demonstrations end to end."""
    return {k: Frames.of([*v.parts, *second[k].parts]) for k, v in first.items()}


def _first(source: FrameSource, count: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield blocks of the first frames."""
    left = count
    for where, block in source.blocks():
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
