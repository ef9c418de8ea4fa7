"""robomimic HDF5 files: ``data/demo_i`` with ``actions``, ``states``, ``obs/<key>`` and so on.

``obs/<key>`` is called ``<key>`` here; any other dataset keeps its path with dots for slashes.
Needs h5py.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats import robomimic_scan
from pcm_policy.datasets.formats.loading import FrameSource
from pcm_policy.datasets.formats.robomimic_names import native_name as native_name
from pcm_policy.datasets.formats.robomimic_scan import Scan, scan, text
from pcm_policy.datasets.formats.robomimic_scan import demonstrations as demonstrations
from pcm_policy.datasets.formats.store import (
    decoding,
    nonfinite_fault,
    nonfinite_rows,
    row_blocks,
)
from pcm_policy.datasets.hdf5 import find
from pcm_policy.datasets.hdf5 import open_file as open_file
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, step_type
from pcm_policy.datasets.trust import check_memory


def read_robomimic(path: Path) -> Recording:
    """Describe a file.

    Raises:
        PcmError: h5py is not installed; or a ReplayError: the file is damaged as a whole, or refers
            to other files.
    """
    with open_file(path) as file:
        demos = demonstrations(path, file)
        found = scan(path, file, demos)
        attrs, lost = _attributes(file["data"].attrs)
        meta = parse_meta(path, attrs.pop(META, None))
        meta.pop("names", None)
        lost |= _beside(file, demos) | found.lost
        named = [k for k in file["data"][demos[0]].attrs if k != "num_samples"]
        section = _section(file, demos, found, attrs)
    fps = _fps(attrs)

    def episodes(names: Collection[str]) -> Iterator[Episode]:
        wanted = {name: found.names[name] for name in names}
        with open_file(path) as opened:
            for demo in demos:
                yield _arrays(path, opened["data"][demo], demo, wanted)

    def attributes(i: int) -> dict[str, Any]:
        with open_file(path) as opened:
            return _attributes(opened["data"][demos[i]].attrs, ("num_samples",))[0]

    return Recording(
        path,
        found.fields,
        len(demos),
        episodes,
        meta | ({"fps": fps} if fps else {}) | {"robomimic": section},
        lost,
        found.faults,
        attributes,
        tuple(f"{demos[0]}.attrs[{k}] (and of the other demonstrations)" for k in named),
    )


def open_robomimic(
    path: str | Path, keys: Sequence[str] | None = None, filter_key: str | None = None
) -> ReplayBuffer:
    """Read arrays of a file into memory, one demonstration at a time; the others are not touched.

    Args:
        path: the file.
        keys: arrays, under the names used here; None for all.
        filter_key: take the demonstrations that ``mask/<filter_key>`` names, as robomimic does, in
            the order of their numbers; None for all.

    Raises:
        PcmError: h5py is not installed; or a ReplayError: the file is damaged, a key or the filter
            key is missing, demonstrations differ, or a float array holds NaN or inf.
    """
    path = Path(path)
    with open_file(path) as file:
        demos = masked(path, file, filter_key)
        found = scan(path, file, demos)
        wanted = _wanted(path, found, demos, keys)
        size = sum(file["data"][d][native].nbytes for d in demos for native in wanted.values())
        check_memory(path, "data", size)
        parts: dict[str, list[Any]] = {name: [] for name in wanted}
        ends: list[int] = []
        for which in demos:
            episode = _arrays(path, file["data"][which], which, wanted)
            count = len(next(iter(episode.values())))
            if not count:
                fix = "remove that demonstration"
                raise ReplayError(path, f"data/{which}", "holds no steps", fix)
            for name, values in episode.items():
                parts[name].append(values)
            ends.append(count + (ends[-1] if ends else 0))
        attrs, _ = _attributes(file["data"].attrs)
    meta = parse_meta(path, attrs.pop(META, None))
    meta |= {"fps": fps} if (fps := _fps(attrs)) else {}
    attrs |= {META: meta} if meta else {}
    arrays = {name: np.concatenate(parts.pop(name)) for name in wanted}
    for name, values in arrays.items():
        if (rows := nonfinite_rows(values)).size:
            raise nonfinite_fault(path, wanted[name], rows, np.array(ends))
    return ReplayBuffer(arrays, np.array(ends, np.int64), path, attrs)


def robomimic_camera(path: Path, key: str, filter_key: str | None = None) -> FrameSource:
    """Describe a camera; frames that the file stores in one piece are mapped where they are.

    Args:
        path: the file.
        key: name of the array, as :func:`open_robomimic` takes it.
        filter_key: as there.

    Raises:
        PcmError: as :func:`open_robomimic`.
    """
    with open_file(path) as file:
        demos = masked(path, file, filter_key)
        names = array_names(path, file, file["data"][demos[0]])
        native = names.get(key, native_name(key))
        step = None
        shapes: list[tuple[int, ...]] = []
        offsets: list[int | None] = []
        for demo in demos:
            if native not in file["data"][demo]:
                found = f"missing; {demos[0]} holds {', '.join(names)}"
                raise ReplayError(path, f"{demo}: {native}", found, "name one of these")
            handle = file["data"][demo][native]
            own = step_type(handle)
            step = own if step is None else step
            if own != step:
                found = f"has steps of {own}, {demos[0]} of {step}"
                fix = "give every demonstration the same shapes and types"
                raise ReplayError(path, f"{demo}: {native}", found, fix)
            plain = handle.chunks is None and handle.dtype == np.uint8
            shapes.append(handle.shape)
            offsets.append(handle.id.get_offset() if plain else None)
    assert step is not None  # there is a demonstration
    in_place = [at for at in offsets if at is not None]
    mapped = _mapped(path, in_place, shapes) if len(in_place) == len(shapes) else []

    def blocks() -> Iterator[tuple[str, NDArray[Any]]]:
        with open_file(path) as opened, decoding(path, native):
            for demo in demos:
                for block in row_blocks(opened["data"][demo][native]):
                    yield f"{demo}: {native}", block

    return FrameSource(f"{demos[0]}: {native}", step, sum(n for n, *_ in shapes), blocks, mapped)


def _mapped(
    path: Path, offsets: Sequence[int], shapes: Sequence[tuple[int, ...]]
) -> list[NDArray[np.uint8]]:
    """Return arrays of bytes of a file; one map for all, which takes one open file."""
    whole = np.memmap(path, np.uint8, "r")
    parts = zip(offsets, shapes, strict=True)
    return [whole[at : at + int(np.prod(shape))].reshape(shape) for at, shape in parts]


def _wanted(
    path: Path, found: Scan, demos: Sequence[str], keys: Sequence[str] | None
) -> dict[str, str]:
    """Return the datasets to read by the names that were asked for."""
    names = dict(found.names)
    places = {native: name for name, native in names.items()}
    for key in keys or ():
        own = key if key in names else places.get(native_name(key))  # action: actions
        if own is None:
            why = found.lost.get(key)
            held = "missing" if why is None else f"no array of numbers with a row a step {why}"
            there = f"{held}; the file holds {', '.join(names)}"
            raise ReplayError(path, f"{demos[0]}: {key}", there, "name one of these")
        names[key] = names[own]
        if own in found.faults:
            raise found.faults[own]
    if keys is None:
        for fault in found.faults.values():
            raise fault
    return {name: names[name] for name in keys or names}


def masked(path: Path, file: Any, filter_key: str | None) -> list[str]:
    """Return the demonstrations of a filter key, by number; all of them for None.

    Raises:
        ReplayError: there is no such filter key, or it names demonstrations that are not there.
    """
    demos = demonstrations(path, file)
    if filter_key is None:
        return demos
    masks = filter_keys(file)
    if filter_key not in masks:
        found = f"missing; the file has {', '.join(masks) or 'no filter keys'}"
        fix = "name one of these, or leave filter_key out"
        raise ReplayError(path, f"mask/{filter_key}", found, fix)
    chosen = masks[filter_key]
    if lacking := sorted(set(chosen) - set(demos)):
        found = f"names {', '.join(lacking[:3])}, of which the file has nothing"
        raise ReplayError(path, f"mask/{filter_key}", found, "write the filter key again")
    if not chosen:
        raise ReplayError(path, f"mask/{filter_key}", "names no demonstrations", "choose another")
    return sorted(chosen, key=lambda name: int(name[5:]))


def filter_keys(file: Any) -> dict[str, list[str]]:
    """Return the names of demonstrations of every filter key."""
    masks = file.get("mask")
    found: dict[str, list[str]] = {}
    for key in masks if hasattr(masks, "keys") else ():
        values = masks.get(key)
        if getattr(values, "shape", None) is not None and values.ndim == 1:
            names = [d.decode(errors="replace") if isinstance(d, bytes) else str(d) for d in values]
            found[key] = names
    return found


def array_names(path: Path, file: Any, demo: Any) -> dict[str, str]:
    """Return where every array of a demonstration is, by the names used here."""
    return robomimic_scan.array_names(path, file, list(find(path, demo)[0]))


def _section(
    file: Any, demos: Sequence[str], found: Scan, attrs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what only robomimic's files have a place for."""
    section: dict[str, Any] = {"names": {name: found.names[name] for name in found.fields}}
    section |= {"attrs": {k: v for k, v in attrs.items() if k != "total"}}
    numbers = [int(demo[5:]) for demo in demos]
    if numbers != list(range(len(demos))):
        section["numbers"] = numbers
    if masks := filter_keys(file):
        section["mask"] = masks
    return section


def _beside(file: Any, demos: Sequence[str]) -> dict[str, str]:
    """Return what is in the file and in no demonstration."""
    lost = {f"/{name}": "" for name in file if name not in ("data", "mask")}
    return lost | {f"/data/{name}": "" for name in file["data"] if name not in demos}


def _attributes(attrs: Any, without: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return attributes as JSON holds them, and those that it cannot hold."""
    kept: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for key in attrs:
        if key in without:
            continue
        try:
            value = text(attrs[key])
            json.dumps(value, allow_nan=False)
            kept[key] = value
        except (OSError, ValueError, TypeError, RecursionError):
            lost[f"attrs[{key}]"] = "(neither text nor numbers)"
    return kept, lost


def _arrays(path: Path, demo: Any, which: str, names: Mapping[str, str]) -> Episode:
    """Read arrays of a demonstration."""
    episode: Episode = {}
    for name, native in names.items():
        try:
            episode[name] = np.asarray(demo[native])
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
            found = f"cannot be read ({error})"
            raise ReplayError(path, f"{which}: {native}", found, "copy it again", name) from error
    return episode


def _fps(attrs: Mapping[str, Any]) -> float | None:
    try:
        rate = float(json.loads(attrs["env_args"])["env_kwargs"]["control_freq"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return rate if 0 < rate < float("inf") else None
