"""The arrays of all demonstrations of a robomimic file, looked at before any is read."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.robomimic_names import neutral_names, of_steps
from pcm_policy.datasets.hdf5 import find, no_numbers, readable
from pcm_policy.datasets.recording import META, parse_meta, step_type
from pcm_policy.datasets.unknown import hdf5_layout

_LARGE = 1 << 30


@dataclass
class Scan:
    """What a file holds.

    Attributes:
        names: datasets of numbers with a row a step, by the names used here; faulty ones too.
        fields: shape and type of a step of those that are whole.
        lost: what is no array of steps: why, by the names used here.
        faults: what is wrong with a dataset, by the names used here.
        all_faults: the same in every demonstration, with the kind of fault.
    """

    names: dict[str, str] = field(default_factory=dict)
    fields: dict[str, np.dtype[Any]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    faults: dict[str, ReplayError] = field(default_factory=dict)
    all_faults: list[tuple[str, ReplayError]] = field(default_factory=list)


@dataclass(frozen=True)
class _Held:
    """What a dataset is; thousands of open ones would take memory, 13 kB each.

    See findings/h5py_dataset_handles_take_kilobytes.sh.

    Attributes:
        shape: None of an empty one.
        dtype: of its values.
        odd: what it holds where it holds no numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    odd: str | None


def demonstrations(path: Path, file: Any) -> list[str]:
    """Return the demonstrations in the order of their numbers, as robomimic takes them.

    Raises:
        ReplayError: there are none; the message says what the file is instead.
    """
    data = file.get("data")
    there = list(data) if hasattr(data, "keys") else []
    demos = [name for name in there if re.fullmatch(r"demo_\d+", name)]
    whole = [name for name in demos if hasattr(data.get(name), "keys")]
    if not whole:
        found, fix = hdf5_layout(set(there) or set(file) - {"data", "mask"})
        raise ReplayError(path, "data", found, fix)
    if len(whole) != len(demos):
        odd = next(name for name in demos if name not in whole)
        raise ReplayError(
            path, f"data/{odd}", "is no group of arrays", "remove it or copy it again"
        )
    return sorted(demos, key=lambda name: int(name[5:]))


def scan(path: Path, file: Any, demos: Sequence[str]) -> Scan:
    """Look at every dataset of every demonstration; none is read.

    Raises:
        ReplayError: a demonstration holds no arrays.
    """
    arrays: dict[str, dict[str, _Held]] = {}
    odd: dict[str, str] = {}
    steps: dict[str, int] = {}
    for demo in demos:
        opened, links = find(path, file["data"][demo])
        odd |= links
        if not opened:
            fix = "remove that demonstration"
            raise ReplayError(path, f"data/{demo}", "holds no arrays", fix)
        steps[demo] = count_steps(file["data"][demo], opened)
        arrays[demo] = {k: _Held(v.shape, v.dtype, no_numbers(v)) for k, v in opened.items()}
    natives = list(dict.fromkeys(name for found in arrays.values() for name in found))
    links = neutral_names(name for name in odd if name not in natives)
    found = Scan(lost={name: odd[native] for name, native in links.items()})
    names = array_names(path, file, natives)
    for name, native in names.items():
        held = {demo: arrays[demo][native] for demo in demos if native in arrays[demo]}
        why = _no_array_of_steps(native, held, steps)
        if why is not None:
            found.lost[name] = why
            continue
        found.names[name] = native
        wrong = list(_check(path, file, name, native, held, steps))
        found.all_faults += wrong
        if wrong:
            found.faults[name] = wrong[0][1]
        else:
            found.fields[name] = step_type(held[demos[0]])
    return found


def array_names(path: Path, file: Any, natives: Sequence[str]) -> dict[str, str]:
    """Return where datasets are, by the names used here."""
    meta = parse_meta(path, text(file["data"].attrs.get(META)))
    names = meta.get("names")
    if isinstance(names, dict) and sorted(map(str, names.values())) == sorted(natives):
        return names
    return neutral_names(sorted(natives))


def count_steps(demo: Any, arrays: Mapping[str, Any]) -> int:
    """Return a demonstration's number of steps: rows of its actions, or what it says, or usual."""
    actions = arrays.get("actions")
    if actions is not None and actions.shape:
        return int(actions.shape[0])
    said = demo.attrs.get("num_samples")
    if isinstance(said, int | np.integer):
        return int(said)
    rows = [array.shape[0] for array in arrays.values() if array.shape]
    return int(max(set(rows), key=rows.count, default=0))


def text(value: Any) -> Any:
    """Return an attribute as JSON holds it; bytes that are no text become None."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value.tolist() if hasattr(value, "tolist") else value


def _no_array_of_steps(
    native: str, held: Mapping[str, _Held], steps: Mapping[str, int]
) -> str | None:
    """Say why a dataset is no array with a row a step in any demonstration; None if it is one."""
    for array in held.values():
        if array.odd is not None:
            return array.odd
    off = [array.shape for demo, array in held.items() if array.shape[:1] != (steps[demo],)]
    if not of_steps(native) and 2 * len(off) > len(held):
        return f"(shape {off[0]} a demonstration, not one row a step)"
    return None


def _check(
    path: Path,
    file: Any,
    name: str,
    native: str,
    held: Mapping[str, _Held],
    steps: Mapping[str, int],
) -> Iterator[tuple[str, ReplayError]]:
    """Yield what is wrong with a dataset in every demonstration, and the kind of fault."""
    first = next(iter(held))
    for demo, count in steps.items():
        where, array = f"data/{demo}/{native}", held.get(demo)
        if array is None:
            fix = "remove that demonstration or add the array"
            yield "arrays", ReplayError(path, where, f"missing, {first} has it", fix, name)
        elif array.shape[:1] != (count,):
            found = f"has shape {array.shape} where actions have {count} rows"
            fix = "write every array once per step"
            yield "lengths", ReplayError(path, where, found, fix, name)
        elif step_type(array) != step_type(held[first]):
            found = f"has steps of {step_text(array)}, {first} of {step_text(held[first])}"
            fix = "give every demonstration the same shapes and types"
            yield "shapes", ReplayError(path, where, found, fix, name)
        elif demo == first or math.prod(array.shape) * array.dtype.itemsize > _LARGE:
            try:
                readable(path, where, file[where], name)
            except ReplayError as fault:
                yield "read", fault


def step_text(array: Any) -> str:
    """Write the shape and type of a step."""
    return f"{tuple(array.shape[1:])} {array.dtype}"
