"""robomimic HDF5 files: ``data/demo_i`` with ``actions``, ``states``, ``obs/<key>`` and so on.

``obs/<key>`` is called ``<key>`` here; any other dataset keeps its path with dots for slashes.
Needs h5py.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.formats.store import ReplayError, nonfinite_fault, nonfinite_rows
from pcm_policy.datasets.recording import (
    META,
    Episode,
    Recording,
    parse_meta,
    require,
    step_type,
)
from pcm_policy.datasets.replay import ReplayBuffer

_OWN = {
    "action": "actions",
    "reward": "rewards",
    "done": "dones",
    "absolute_action": "absolute_actions",  # ours: see pcm_policy/rotations.py
}
_PLAIN = {*_OWN.values(), "states"}
_NO_ENV = {"env_name": "unknown", "type": 2, "env_kwargs": {}}


def read_robomimic(path: Path) -> Recording:
    """Describe a file.

    Raises:
        PcmError: h5py is not installed; or a ReplayError: the file or a demonstration is damaged,
            or demonstrations differ.
    """
    with open_file(path) as file:
        demos = demonstrations(path, file)
        first = file["data"][demos[0]]
        attrs = {k: _json(v) for k, v in file["data"].attrs.items()}
        meta = parse_meta(path, attrs.pop(META, None))
        names = array_names(path, file, first)
        meta.pop("names", None)
        fields = {name: step_type(first[native]) for name, native in names.items()}
        named = [k for k in first.attrs if k != "num_samples"]
        lost = [f"/{k}" for k in file if k not in ("data", "mask")]
        numbers = [int(demo[5:]) for demo in demos]
        section: dict[str, Any] = {"names": names}
        section |= {"attrs": {k: v for k, v in attrs.items() if k != "total"}}
        if numbers != list(range(len(demos))):
            section["numbers"] = numbers
        if "mask" in file:
            section["mask"] = {
                key: [demo.decode() if isinstance(demo, bytes) else str(demo) for demo in values]
                for key, values in file["mask"].items()
            }
        fps = _fps(section["attrs"])

    def episodes() -> Iterator[Episode]:
        with open_file(path) as opened:
            for demo in demos:
                yield _episode(path, opened["data"][demo], demo, names, fields)

    def attributes(i: int) -> dict[str, Any]:
        with open_file(path) as opened:
            found = opened["data"][demos[i]].attrs.items()
            return {k: _json(v) for k, v in found if k != "num_samples"}

    known = {"fps": fps} if fps else {}
    return Recording(
        path,
        fields,
        len(demos),
        episodes,
        meta | known | {"robomimic": section},
        tuple(lost),
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
        first = file["data"][demos[0]]
        names = array_names(path, file, first)
        for key in keys or ():
            if key not in names and native_name(key) in first:
                names[key] = native_name(key)  # "action" is what robomimic calls "actions"
            if key not in names:
                found = f"missing; the file holds {', '.join(names)}"
                raise ReplayError(path, f"{demos[0]}: {key}", found, "name one of these")
        wanted = {name: names[name] for name in keys or names}
        parts: dict[str, list[Any]] = {name: [] for name in wanted}
        ends: list[int] = []
        for which in demos:
            episode = _arrays(path, file["data"][which], which, wanted)
            count = len(next(iter(episode.values())))
            for name, values in episode.items():
                first = parts[name][0] if parts[name] else values
                if len(values) != count or not count or step_type(values) != step_type(first):
                    found = f"has shape {values.shape} where {next(iter(wanted.values()))} has "
                    found += f"{count} steps and {demos[0]} steps of {step_type(first)}"
                    where = f"{which}: {wanted[name]}"
                    raise ReplayError(path, where, found, "write every array once per step")
                parts[name].append(values)
            ends.append(count + (ends[-1] if ends else 0))
        attrs = {k: _json(v) for k, v in file["data"].attrs.items()}
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    for name, values in arrays.items():
        if (rows := nonfinite_rows(values)).size:
            raise nonfinite_fault(path, wanted[name], rows, np.array(ends))
    return ReplayBuffer(arrays, np.array(ends, np.int64), path, attrs)


def masked(path: Path, file: Any, filter_key: str | None) -> list[str]:
    """Return the demonstrations of a filter key, by number; all of them for None.

    Raises:
        ReplayError: there is no such filter key, or it names demonstrations that are not there.
    """
    demos = demonstrations(path, file)
    if filter_key is None:
        return demos
    there = list(file["mask"]) if "mask" in file else []
    if filter_key not in there:
        found = f"missing; the file has {', '.join(there) or 'no filter keys'}"
        fix = "name one of these, or leave filter_key out"
        raise ReplayError(path, f"mask/{filter_key}", found, fix)
    chosen = [d.decode() if isinstance(d, bytes) else str(d) for d in file["mask"][filter_key]]
    if lacking := sorted(set(chosen) - set(demos)):
        found = f"names {', '.join(lacking[:3])}, of which the file has nothing"
        raise ReplayError(path, f"mask/{filter_key}", found, "write the filter key again")
    if not chosen:
        raise ReplayError(path, f"mask/{filter_key}", "names no demonstrations", "choose another")
    return sorted(chosen, key=lambda name: int(name[5:]))


def write_robomimic(path: Path, recording: Recording) -> list[str]:
    """Write a file that appears whole or not at all; returns what robomimic will miss in it."""
    h5py = require("h5py", "robomimic's HDF5")
    section = dict(recording.meta.get("robomimic", {}))
    names = section.get("names", {})
    natives = {name: names.get(name) or native_name(name) for name in recording.fields}
    numbers = section.get("numbers", range(recording.n_episodes))
    attrs = section.get("attrs", {})
    meta = {k: v for k, v in recording.meta.items() if k != "robomimic"}
    neutral = _neutral(sorted(natives.values()))
    if any(neutral.get(name) != native for name, native in natives.items()):
        meta["names"] = natives  # the way back would not find these by itself
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    total = 0
    try:
        with h5py.File(scratch, "w") as file:
            data = file.create_group("data")
            told = recording.attributes or (lambda _: {})
            for i, (number, episode) in enumerate(zip(numbers, recording.episodes(), strict=True)):
                demo = data.create_group(f"demo_{number}")
                for name, values in episode.items():
                    demo.create_dataset(natives[name], data=values)
                demo.attrs["num_samples"] = len(values)
                for key, value in told(i).items():
                    demo.attrs[key] = value
                total += len(values)
            data.attrs["total"] = total
            for key, value in ({"env_args": json.dumps(_NO_ENV)} | attrs).items():
                data.attrs[key] = value
            if meta:
                data.attrs[META] = json.dumps(meta)
            for key, chosen in section.get("mask", {}).items():
                file.create_dataset(f"mask/{key}", data=np.array(chosen, dtype="S"))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    lacking = sorted({"actions", "rewards", "dones"} - set(natives.values()))
    notes = [f"no {name}: robomimic's default config asks for it" for name in lacking]
    if "env_args" not in attrs:
        notes.append("no environment is known: env_args names 'unknown'")
    return notes


def open_file(path: Path) -> Any:
    """Open a file for reading; ReplayError when it is missing, no HDF5 file or cut short."""
    h5py = require("h5py", "robomimic's HDF5")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        fix = "copy it again"
        raise ReplayError(path, "file", f"cannot be opened ({error})", fix) from error


def demonstrations(path: Path, file: Any) -> list[str]:
    """Return the demonstrations in the order of their numbers, as robomimic takes them."""
    there = list(file["data"]) if "data" in file else []
    demos = [name for name in there if re.fullmatch(r"demo_\d+", name)]
    if not demos:
        found = f"holds {', '.join(there[:5]) or 'nothing'}"
        raise ReplayError(path, "data", found, "expected demo_0, demo_1 ...: is it robomimic's?")
    return sorted(demos, key=lambda name: int(name[5:]))


def _datasets(path: Path, demo: Any) -> list[str]:
    found: list[str] = []
    demo.visititems(lambda name, node: found.append(name) if hasattr(node, "shape") else None)
    if not found:
        raise ReplayError(path, demo.name, "holds no arrays", "remove that demonstration")
    return sorted(found)


def _neutral(natives: list[str]) -> dict[str, str]:
    """Name every dataset: ``obs/x`` is ``x`` unless another dataset is."""
    plain = {native.replace("/", ".") for native in natives if not native.startswith("obs/")}
    names = {}
    for native in natives:
        short = native.removeprefix("obs/").replace("/", ".")
        names[f"obs.{short}" if native.startswith("obs/") and short in plain else short] = native
    return names


def native_name(name: str) -> str:
    """Return where robomimic looks for an array that it never had."""
    own = _OWN.get(name, name)
    if own in _PLAIN:
        return own
    head, _, rest = name.partition(".")
    return f"{head}/{rest}" if head in ("next_obs", "obs") and rest else f"obs/{name}"


def array_names(path: Path, file: Any, demo: Any) -> dict[str, str]:
    """Return where every array of a demonstration is, by the names used here."""
    natives = _datasets(path, demo)
    meta = parse_meta(path, _json(file["data"].attrs.get(META)))
    names = meta.get("names")
    if isinstance(names, dict) and sorted(names.values()) == natives:
        return names
    return _neutral(natives)


def _arrays(path: Path, demo: Any, which: str, names: Mapping[str, str]) -> Episode:
    """Read arrays of a demonstration."""
    lacking = sorted(native for native in names.values() if native not in demo)
    if lacking:
        found = f"lacks {lacking[0]}, which other demonstrations have"
        raise ReplayError(path, which, found, "remove that demonstration or add the array")
    try:
        return {name: np.asarray(demo[native]) for name, native in names.items()}
    except (OSError, ValueError, TypeError) as error:
        raise ReplayError(path, which, f"cannot be read ({error})", "copy it again") from error


def _episode(
    path: Path, demo: Any, which: str, names: dict[str, str], fields: dict[str, np.dtype[Any]]
) -> Episode:
    if _datasets(path, demo) != sorted(names.values()):
        found, fix = (
            f"holds {_datasets(path, demo)}",
            f"the first one holds {sorted(names.values())}",
        )
        raise ReplayError(path, which, found, fix)
    episode = _arrays(path, demo, which, names)
    for name, values in episode.items():
        if step_type(values) != fields[name]:
            found = f"{names[name]} has steps of {step_type(values)}"
            raise ReplayError(path, which, found, f"the first one has {fields[name]}")
    return episode


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if hasattr(value, "tolist") else value


def _fps(attrs: dict[str, Any]) -> float | None:
    try:
        rate = json.loads(attrs["env_args"])["env_kwargs"]["control_freq"]
        return float(rate)
    except (KeyError, ValueError, TypeError):
        return None
