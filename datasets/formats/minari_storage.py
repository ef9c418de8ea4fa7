"""The arrays of a Minari data set: of its HDF5 file one by one, of its Arrow files all at once."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.hdf5 import find, no_numbers, open_file, readable
from pcm_policy.optional import require

_FILE = "data/main_data.hdf5"
_AGAIN = "download it again"
_HEADS = ("observations", "actions", "rewards", "terminations", "truncations", "infos")


@dataclass(frozen=True)
class Leaf:
    """One array of an episode: its shape and type, or why it is no array of numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    why: str | None = None


class Storage(Protocol):
    """Episodes by their numbers, arrays by their place, as ``observations/state``."""

    count: int

    def leaves(self, number: int) -> dict[str, Leaf]:
        """Describe the arrays of an episode."""

    def episodes(self, places: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield these arrays of every episode, in order; ReplayError with the place as array."""

    def about(self) -> list[Mapping[str, Any]]:
        """Return seed and options of every episode, as far as they are there."""


def open_storage(folder: Path, metadata: Mapping[str, Any]) -> Storage:
    """Open the data of a folder.

    Raises:
        PcmError: an optional package is missing; or a ReplayError: the data are damaged.
    """
    if (folder / _FILE).is_file() or metadata.get("data_format", "hdf5") == "hdf5":
        return _Hdf5(folder, metadata)
    return _Others(folder)


class _Hdf5:
    """``main_data.hdf5``, with a group for every episode."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self.folder, self.file = folder, folder / _FILE
        self.jpeg = bool(metadata.get("jpeg_encoding", True))
        self.spaces = {h: str(metadata.get(f"{h[:-1]}_space")) for h in _HEADS[:2]}
        with self._open() as file:
            there = sum(1 for name in file if name.startswith("episode_"))
        said = metadata.get("total_episodes", there)
        self.count = said if isinstance(said, int) else there

    def _open(self) -> Any:
        try:
            return open_file(self.file)
        except ReplayError as fault:
            where, found = "data", f"cannot be read ({fault.found})"
            raise ReplayError(self.folder, where, found, fault.fix) from fault

    def _group(self, file: Any, number: int) -> Any:
        group = file.get(f"episode_{number}")
        if not hasattr(group, "keys"):
            found = f"cannot be read (episode_{number} is missing)"
            raise ReplayError(self.folder, "data", found, _AGAIN)
        return group

    def _arrays(self, file: Any, number: int) -> tuple[dict[str, Any], dict[str, str]]:
        arrays, odd = find(self.folder, self._group(file, number))
        return {k.replace("_index_", ""): v for k, v in arrays.items()}, odd

    def leaves(self, number: int) -> dict[str, Leaf]:
        """Describe the arrays of an episode; none is read but the first picture of each camera."""
        nothing = np.dtype(np.uint8)
        with self._open() as file:
            arrays, odd = self._arrays(file, number)
            found = {place: Leaf((), nothing, why) for place, why in odd.items()}
            for place, array in arrays.items():
                if place.partition("/")[0] not in _HEADS:
                    found[place] = Leaf((), nothing, "(of no kind that Minari has)")
                elif self._is_jpeg(place, array):
                    first = self._pictures(place, array[:1]) if len(array) else np.empty((0, 1, 1))
                    found[place] = Leaf((len(array), *first.shape[1:]), nothing)
                else:
                    why = no_numbers(array)
                    found[place] = Leaf(array.shape or (), array.dtype, why)
        return found

    def episodes(self, places: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield these arrays of every episode."""
        with self._open() as file:
            for number in range(self.count):
                arrays, _ = self._arrays(file, number)
                yield {place: self._read(arrays, number, place) for place in places}

    def _read(self, arrays: Mapping[str, Any], number: int, place: str) -> NDArray[Any]:
        where = f"episode {number}: {place}"
        if place not in arrays:
            fix = "the first episode has it: download it again"
            raise ReplayError(self.folder, where, "missing", fix, place)
        readable(self.folder, where, arrays[place], place)
        try:
            values = arrays[place][()]
        except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            found = f"cannot be read ({error})"
            raise ReplayError(self.folder, where, found, _AGAIN, place) from error
        return self._pictures(place, values) if self._is_jpeg(place, arrays[place]) else values

    def _is_jpeg(self, place: str, array: Any) -> bool:
        """Say whether an array holds encoded pictures, a row of bytes each."""
        h5py = require("h5py", "an HDF5 file", "convert")
        head, *path = place.split("/")
        if not self.jpeg or head not in self.spaces or array.shape is None:
            return False
        vlen = h5py.check_vlen_dtype(array.dtype) == np.uint8
        if not vlen and not (array.ndim == 2 and array.dtype == np.uint8):
            return False
        return self._is_image(head, path)

    def _is_image(self, head: str, path: list[str]) -> bool:
        what = "pictures of a Minari data set"
        serialization = require("minari.serialization", what, "minari")
        storage = require("minari.dataset.minari_storage", what, "minari")
        try:
            space = serialization.deserialize_space(self.spaces[head])
            for key in path:
                space = space[int(key)] if isinstance(space.spaces, tuple) else space[key]
            return bool(storage.is_image_space(space))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError):
            return False

    def _pictures(self, place: str, rows: Any) -> NDArray[Any]:
        image = require("PIL.Image", "pictures of a Minari data set", "minari")
        try:
            return np.stack([np.asarray(image.open(io.BytesIO(bytes(row)))) for row in rows])
        except Exception as error:  # Pillow and its plugins raise many kinds
            found = f"holds no pictures ({' '.join(str(error).split())})"
            raise ReplayError(self.folder, place, found, _AGAIN, place) from error

    def about(self) -> list[Mapping[str, Any]]:
        """Return seed and options of every episode."""
        with self._open() as file:
            found: list[Mapping[str, Any]] = []
            for number in range(self.count):
                attrs = self._group(file, number).attrs
                known = {k: int(attrs[k]) for k in ("seed",) if k in attrs and attrs[k] is not None}
                options = {"options": True} if any(k.startswith("options") for k in attrs) else {}
                found.append(known | options)
        return found


class _Others:
    """Any other storage that Minari has (Arrow): an episode is read whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        module = require("minari.dataset.minari_storage", "a Minari data set", "minari")
        with self._reading():
            self.storage = module.MinariStorage.read(folder / "data")
            self.count = int(self.storage.total_episodes)

    def _reading(self) -> "_Reading":
        return _Reading(self.folder)

    def leaves(self, number: int) -> dict[str, Leaf]:
        """Describe the arrays of an episode, which is read for it."""
        with self._reading():
            arrays = dict(_leaves(next(iter(self.storage.get_episodes([number])))))
        return {
            place: Leaf(v.shape, v.dtype, None if v.dtype.kind in "biuf" else "(no numbers)")
            for place, v in arrays.items()
        }

    def episodes(self, places: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield these arrays of every episode."""
        for number in range(self.count):
            with self._reading():
                arrays = dict(_leaves(next(iter(self.storage.get_episodes([number])))))
            for place in places:
                if place not in arrays:
                    fix = "the first episode has it: download it again"
                    where = f"episode {number}: {place}"
                    raise ReplayError(self.folder, where, "missing", fix, place)
            yield {place: arrays[place] for place in places}

    def about(self) -> list[Mapping[str, Any]]:
        """Return seed and options of every episode."""
        with self._reading():
            return list(self.storage.get_episode_metadata(range(self.count)))


class _Reading:
    """Turns what Minari raises on damaged files into a ReplayError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        damaged = (OSError, ValueError, KeyError, TypeError, AssertionError, NotImplementedError)
        if isinstance(error, (*damaged, StopIteration)) and not isinstance(error, ReplayError):
            found = f"cannot be read ({' '.join(str(error).split())})"
            raise ReplayError(self.folder, "data", found, _AGAIN) from error


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of an episode by their place, as ``observations/state``."""
    if isinstance(node, tuple):
        node = dict(enumerate(node))
    if isinstance(node, Mapping):
        for key, value in node.items():
            if path or key in _HEADS:
                yield from _leaves(value, f"{path}/{key}" if path else str(key))
    elif node is not None:
        yield path, np.asarray(node)
