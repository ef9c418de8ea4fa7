"""Episodes that are groups of arrays in HDF5 files, whatever their layout. Needs h5py.

Every array has a row a step. An array of observations may have one row more, the observation after
the last action: that row is left out, and named. Arrays of another length belong to an episode and
not to its steps: they are named and left out too.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.hdf5 import find, is_hdf5, no_numbers, open_file, readable
from pcm_policy.datasets.recording import Episode, Recording, step_type
from pcm_policy.errors import PcmError

Decode = Callable[[NDArray[Any]], NDArray[Any]]
"""Makes rows of what is stored, such as frames of pictures; ValueError if that cannot be."""


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Attributes:
        file: the file.
        group: the group in it that holds the arrays; empty for the top.
        rows: which of the arrays' rows, where a file holds all episodes end to end.
    """

    file: Path
    group: str = ""
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"{self.file.name}: {self.group}".removesuffix(": ")


def top_names(path: Path) -> set[str]:
    """Return what is at the top of an HDF5 file; nothing where it cannot be opened."""
    if not (path.is_file() and is_hdf5(path)):
        return set()
    try:
        with open_file(path) as file:
            return set(file)
    except PcmError:
        return set()


def recording(
    path: Path,
    episodes: Sequence[Trajectory],
    name_of: Callable[[str], str],
    actions: str,
    meta: Mapping[str, Any],
    decode: Callable[[str, Any], Decode | None] = lambda place, array: None,
) -> Recording:
    """Describe episodes; the first one says which arrays there are.

    Args:
        path: the source, for messages.
        episodes: in order.
        name_of: makes the name used here of an array's place below its group.
        actions: place of the actions, whose rows are the steps.
        meta: as of :class:`Recording`.
        decode: returns how a stored array, ``(place, array)``, becomes rows; None: as it is.

    Raises:
        ReplayError: the first episode has no actions, or no steps.
    """
    found = _look(path, episodes[0], name_of, actions, decode)

    def read(names: Collection[str]) -> Iterator[Episode]:
        with ExitStack() as stack:
            opened: tuple[Path, Any] | None = None
            for one in episodes:
                if opened is None or opened[0] != one.file:
                    stack.close()
                    opened = one.file, stack.enter_context(open_file(one.file))
                group = _group(path, opened[1], one)
                steps = _steps(path, group, one, actions)
                yield {
                    name: _rows(
                        path, group, one, name, found.places[name], steps, found.decoders.get(name)
                    )
                    for name in names
                }

    return Recording(path, found.fields, len(episodes), read, meta, found.lost, found.faults)


@dataclass
class _Found:
    """What the first episode holds: as of :class:`Recording`, and where and how it is stored."""

    fields: dict[str, np.dtype[Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    decoders: dict[str, Decode] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    faults: dict[str, ReplayError] = field(default_factory=dict)

    def add(self, where: str, name: str, place: str, array: Any, how: Decode | None) -> None:
        """Take an array with a row a step, unless it cannot be read."""
        self.places[name] = place
        try:
            readable(Path(array.file.filename), where, array, name)
            self.fields[name] = step_type(array if how is None else how(array[:1]))
        except ReplayError as fault:
            self.faults[name] = fault
        except ValueError as error:
            path = Path(array.file.filename)
            self.faults[name] = ReplayError(path, where, str(error), "record it again", name)
        if how is not None:
            self.decoders[name] = how


def _look(
    path: Path,
    first: Trajectory,
    name_of: Callable[[str], str],
    actions: str,
    decode: Callable[[str, Any], Decode | None],
) -> _Found:
    """Look at the arrays of the first episode; see :func:`recording`."""
    found, longer = _Found(), False
    with open_file(first.file) as file:
        group = _group(path, file, first)
        arrays, odd = find(first.file, group)
        found.lost |= {name_of(place): why for place, why in odd.items()}
        _steps(path, group, first, actions)
        whole = group[actions].shape[0]
        for place, array in arrays.items():
            name, why = name_of(place), no_numbers(array)
            if why is None and array.shape[:1] not in ((whole,), (whole + 1,)):
                why = f"(shape {array.shape} an episode, not one row a step)"
            if why is not None:
                found.lost[name] = why
                continue
            longer |= array.shape[0] == whole + 1
            found.add(f"{first.where}/{place}", name, place, array, decode(place, array))
    if longer:
        found.lost["the observation after the last action of every episode"] = ""
    return found


def _group(path: Path, file: Any, one: Trajectory) -> Any:
    group = file if not one.group else file.get(one.group)
    if not hasattr(group, "keys"):
        raise ReplayError(path, one.where, "is no group of arrays", "copy it again")
    return group


def _steps(path: Path, group: Any, one: Trajectory, actions: str) -> int:
    """Return the number of steps of an episode: of its actions, of which each step has one."""
    array = group.get(actions)
    if getattr(array, "shape", None) is None or not array.shape:
        raise ReplayError(path, one.where, f"has no array {actions}", "copy or record it again")
    steps = len(range(*one.rows.indices(array.shape[0])))
    if not steps:
        raise ReplayError(path, one.where, "holds no steps", "remove it")
    return steps


def _rows(
    path: Path,
    group: Any,
    one: Trajectory,
    name: str,
    place: str,
    steps: int,
    decode: Decode | None,
) -> NDArray[Any]:
    """Read the rows of an array that belong to steps."""
    where, array = f"{one.where}/{place}", group.get(place)
    if getattr(array, "shape", None) is None:
        fix = "leave it out, or record the episode again"
        raise ReplayError(path, where, "is missing, the first episode has it", fix, name)
    try:
        values = np.asarray(array[one.rows])
        rows = len(values)
        values = values[:steps] if decode is None else decode(values[:steps])
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        found = f"cannot be read ({error})"
        raise ReplayError(path, where, found, "copy it again", name) from error
    if rows not in (steps, steps + 1):
        found = f"has {rows} rows where there are {steps} steps"
        raise ReplayError(path, where, found, "record or copy the episode again", name)
    return values
