"""The format of replay buffers (zarr), as a source and a target of conversions."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.formats.base import Format, WriteOptions, no_filter_key, no_images
from pcm_policy.datasets.formats.loading import FrameSource
from pcm_policy.datasets.formats.replay import ReplayBuffer, open_replay
from pcm_policy.datasets.formats.store import (
    count_rows,
    decoding,
    episode_faults,
    find_keys,
    length_faults,
    members,
    open_arrays,
    open_group,
    read_ends,
    row_blocks,
)
from pcm_policy.datasets.formats.store_faults import examine
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.gathered import Gathered
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, step_type

_AHEAD_BYTES = 8 << 20
_MARKS = (".zgroup", "zarr.json", "data/.zgroup", "data/zarr.json", "meta/episode_ends")


def read_zarr(path: Path) -> Recording:
    """Describe a replay buffer, zarr format 2 or 3; ReplayError when it is inconsistent."""
    with open_group(path) as group:
        handles, faults, deeper = open_arrays(path, group)
        ends = read_ends(path, group)
        lost = dict.fromkeys(deeper, "(deeper than data/KEY)")
        for key in [k for k, handle in handles.items() if handle.dtype.kind not in "biuf"]:
            lost[key] = f"({_kind(handles.pop(key).dtype)})"
        n_steps = int(ends.max()) if ends.size and ends.dtype.kind in "iu" else 0
        for fault in length_faults(path, count_rows(handles)):
            faults[str(fault.array)] = fault
        fields = {k: step_type(handle) for k, handle in handles.items() if k not in faults}
        rows = next((handles[k].shape[0] for k in fields), n_steps)
        for fault in episode_faults(path, ends, rows):
            raise fault
        attrs = dict(group.attrs)
    meta = parse_meta(path, attrs.pop(META, None))
    meta = meta | ({"zarr": {"attrs": attrs}} if attrs else {})
    for name in members(path):
        if name.startswith("meta/") and name != "meta/episode_ends":
            lost[name] = ""

    def episodes(names: Collection[str]) -> Iterator[Episode]:
        with open_group(path) as opened:
            arrays, _, _ = open_arrays(path, opened)
            rows = {key: _Rows(path, key, arrays[key]) for key in names}
            start = 0
            for end in map(int, ends):
                yield {key: values.read(start, end) for key, values in rows.items()}
                start = end

    return Recording(path, fields, len(ends), episodes, meta, lost, faults)


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "OSUT":
        return "text or objects"
    return {"c": "complex numbers", "V": "structures"}.get(dtype.kind, str(dtype))


class _Rows:
    """Consecutive rows of an array, in whole chunks: each chunk is decoded about once."""

    def __init__(self, path: Path, key: str, array: zarr.Array[Any]) -> None:
        self.path, self.key, self.array = path, key, array
        row = max(1, array.nbytes // max(1, array.shape[0]))
        self.chunk = max(1, array.chunks[0])
        self.ahead = max(1, _AHEAD_BYTES // row)
        self.start, self.held = 0, np.empty((0, *array.shape[1:]), array.dtype)

    def read(self, start: int, end: int) -> NDArray[Any]:
        if not self.start <= start <= end <= self.start + len(self.held):
            stop = max(end, start + self.ahead)
            stop = min(-(-stop // self.chunk) * self.chunk, self.array.shape[0])
            with decoding(self.path, f"data/{self.key}", self.key):
                self.start, self.held = start, np.asarray(self.array[start:stop])
        return self.held[start - self.start : end - self.start]


class Zarr(Format):
    """Replay buffers in Diffusion Policy's layout, ``*.zarr`` and ``*.zarr.zip``."""

    name = "zarr"

    def recognises(self, path: Path) -> bool:
        """Say whether there is a group at the top of a folder or a zip file."""
        if path.is_dir():
            return any((path / mark).exists() for mark in _MARKS)
        if not path.is_file():
            return False
        if zipfile.is_zipfile(path):
            try:
                with zipfile.ZipFile(path) as archive:
                    return any(name in _MARKS for name in archive.namelist())
            except (OSError, zipfile.BadZipFile, NotImplementedError):
                return True  # opening it says what is wrong
        with path.open("rb") as file:
            return file.read(2) == b"PK"  # cut short

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe a replay buffer; its cameras are arrays as any other."""
        no_images(path, images, "zarr")
        return read_zarr(path)

    def load(
        self, path: Path, keys: Sequence[str] | None = None, filter_key: str | None = None
    ) -> ReplayBuffer:
        """Read arrays as they are stored."""
        no_filter_key(path, filter_key)
        return open_replay(path, keys)

    def camera(self, path: Path, key: str, filter_key: str | None = None) -> FrameSource:
        """Describe a camera, whose frames are read in whole chunks."""
        no_filter_key(path, filter_key)
        with open_group(path) as group:
            handle = find_keys(path, group, [key])[key]
            step, count = step_type(handle), handle.shape[0]
        where = f"data/{key}"

        def blocks() -> Iterator[tuple[str, NDArray[Any]]]:
            with open_group(path) as opened, decoding(path, where):
                for block in row_blocks(find_keys(path, opened, [key])[key]):
                    yield where, block

        return FrameSource(where, step, count, blocks)

    def accepts(self, target: Path) -> bool:
        """Say whether a target ends in .zarr or .zip."""
        return target.suffix in (".zarr", ".zip")

    def write(self, target: Path, recording: Recording, options: WriteOptions) -> list[str]:
        """Write a replay buffer; there is nothing that its users miss."""
        attrs = dict(recording.meta.get("zarr", {}).get("attrs", {}))
        meta = {k: v for k, v in recording.meta.items() if k != "zarr"}
        attrs |= {META: meta} if meta else {}
        write_replay(target, recording.read(), attrs=attrs, zarr_format=options.zarr_format)
        return []

    def examine(self, path: Path, data: Gathered, filter_key: str | None) -> Iterator[Finding]:
        """Yield every fault of the store at once."""
        no_filter_key(path, filter_key)
        with open_group(path) as group:
            yield from examine(path, group, data)


FORMAT = Zarr()
