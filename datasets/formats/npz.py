"""NumPy's ``.npz``: flat arrays of all steps, and one that says where episodes end.

Ends are ``episode_ends``, the row after the last of every episode, as in the replay buffers of
Diffusion Policy; or flags at the last step, ``terminals`` and ``timeouts`` as D4RL has them, or
``dones``. Arrays of Python objects are pickles: they are named, and never loaded.

Source: numpy.org/doc/stable/reference/generated/numpy.savez.html and numpy.lib.format.
"""

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format, no_images
from pcm_policy.datasets.formats.d4rl import ENDS, NAMES, stops_of
from pcm_policy.datasets.recording import Episode, Recording
from pcm_policy.datasets.trust import check_memory, check_size
from pcm_policy.datasets.unknown import zip_names

_BUFFER = "episode_ends"
_FLAGS = (*ENDS, "dones", "done")
# what a damaged zip file, array or header raises; a file with a password a RuntimeError
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, RuntimeError)
_AGAIN = "copy it again, or write it with numpy.savez"


class Npz(Format):
    """Episodes end to end in the arrays of an ``.npz`` file."""

    name = "npz"

    def recognises(self, path: Path) -> bool:
        """Say whether a path is a zip file of ``.npy`` files."""
        return bool(_members(path))

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe the episodes."""
        no_images(path, images, "an .npz file")
        arrays = {name: _header(path, name) for name in _members(path)}
        stops = _stops(path, arrays)
        fields: dict[str, np.dtype[Any]] = {}
        lost: dict[str, str] = {}
        faults: dict[str, ReplayError] = {}
        places: dict[str, str] = {}
        for stored, header in arrays.items():
            name = stored if _BUFFER in arrays else NAMES.get(stored, stored)
            if stored == _BUFFER:
                continue
            why = header.lost(stops[-1])
            if why is not None:
                lost[name] = why
                continue
            places[name] = stored
            try:
                header.check(path, stored, name)
                fields[name] = np.dtype((header.dtype, header.shape[1:]))
            except ReplayError as fault:
                faults[name] = fault
        if not places:
            held = ", ".join(f"{name} {header.shape}" for name, header in arrays.items())
            found = f"end at row {stops[-1]}, where no array of numbers does: {held}"
            raise ReplayError(path, "episodes", found, "give every array a row a step")

        def read(names: Collection[str]) -> Iterator[Episode]:
            size = sum(arrays[places[name]].bytes for name in names)
            check_memory(path, "the arrays that are read", size)
            whole = {name: load(path, places[name], name) for name in names}
            for start, stop in zip([0, *stops[:-1]], stops, strict=True):
                yield {name: values[start:stop] for name, values in whole.items()}

        return Recording(path, fields, len(stops), read, {}, lost, faults)


@dataclass(frozen=True)
class _Header:
    """What an array says of itself, and the bytes that its file takes, packed and unpacked."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packed: int
    unpacked: int

    @property
    def bytes(self) -> int:
        """The bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def lost(self, rows: int) -> str | None:
        """Say why an array is none of steps; None where it is."""
        if self.dtype.hasobject:
            return "(Python objects, which only a pickle holds)"
        if self.dtype.kind not in "biuf":
            return {"c": "(complex numbers)", "V": "(structures)"}.get(self.dtype.kind, "(text)")
        if self.shape[:1] != (rows,):
            return f"(shape {self.shape}, not one row a step)"
        return None

    def check(self, path: Path, where: str, name: str) -> None:
        """Refuse an array that is cut short, or says to be far larger than it is stored."""
        check_size(path, where, self.bytes, self.packed, name)
        if self.bytes > self.unpacked:
            found = f"says to hold {self.bytes} bytes and holds {self.unpacked}"
            raise ReplayError(path, where, found, _AGAIN, name)


def _members(path: Path) -> list[str]:
    """Return the names of the arrays of a file; none where it is no ``.npz``."""
    names = zip_names(path)
    if not all(name.endswith(".npy") for name in names):
        return []
    return [name.removesuffix(".npy") for name in names]


def _header(path: Path, name: str) -> _Header:
    """Read what an array says of itself, and none of its rows."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
    except _DAMAGED as error:
        found = f"cannot be read ({error})"
        raise ReplayError(path, name, found, _AGAIN, name) from error
    return _Header(tuple(map(int, shape)), dtype, info.compress_size, info.file_size)


def load(path: Path, stored: str, name: str) -> NDArray[Any]:
    """Read one array.

    Raises:
        ReplayError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found: NDArray[Any] = file[stored]
    except _DAMAGED as error:
        raise ReplayError(path, stored, f"cannot be read ({error})", _AGAIN, name) from error
    return found


def _stops(path: Path, arrays: Mapping[str, _Header]) -> list[int]:
    """Return the row after the last of every episode."""
    if _BUFFER in arrays:
        arrays[_BUFFER].check(path, _BUFFER, _BUFFER)
        ends = load(path, _BUFFER, _BUFFER)
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
            found = f"is {ends.dtype} of shape {ends.shape}"
            raise ReplayError(path, _BUFFER, found, "give the row after the last of every episode")
        stops: list[int] = ends.tolist()
        if stops[0] <= 0 or any(b <= a for a, b in pairwise(stops)):
            raise ReplayError(path, _BUFFER, "does not grow", "give rows that grow, from above 0")
        return stops
    flags = [name for name in _FLAGS if name in arrays]
    if not flags:
        found = (
            f"is missing, nothing says where episodes end; there are {', '.join(sorted(arrays))}"
        )
        fix = "add it (the row after the last of every episode), or flags called "
        raise ReplayError(path, _BUFFER, found, fix + ", ".join(_FLAGS))
    for name in flags:
        arrays[name].check(path, name, name)
    return stops_of(path, {name: load(path, name, name) for name in flags})


FORMAT = Npz()
