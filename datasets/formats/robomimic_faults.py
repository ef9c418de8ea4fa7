"""What can be wrong with a robomimic file: its structure, demonstration by demonstration."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.findings import Finding, Values
from pcm_policy.datasets.formats.robomimic import demonstrations, filter_keys, masked, open_file
from pcm_policy.datasets.formats.robomimic_scan import Scan, count_steps, scan, text
from pcm_policy.datasets.formats.store import nonfinite_rows
from pcm_policy.datasets.gathered import MAX_COLUMNS, Gathered
from pcm_policy.datasets.hdf5 import find

_OWN = {"actions": "action", "rewards": "reward", "dones": "done"}
_SPOILS = ("lengths", "arrays", "shapes", "read", "finite")


def error(check: str, where: str, found: str, fix: str) -> Finding:
    """Return an error about the part ``where`` of a file."""
    return Finding("error", check, f"{where}: {found}", fix)


def examine(path: Path, filter_key: str | None, data: Gathered) -> Iterator[Finding]:
    """Yield what is wrong with the structure of a file and its numbers.

    Args:
        path: the file.
        filter_key: one that must be there, if any.
        data: gets every array of numbers but images, under the names used in training, unless
            something is wrong with its structure.

    Raises:
        ReplayError: it cannot be opened, or holds no demonstrations.
    """
    wrong = False
    with open_file(path) as file:
        demos = demonstrations(path, file)
        yield from _env_args(file)
        yield from _filter_keys(path, file, filter_key)
        found = scan(path, file, demos)
        for name, why in found.lost.items():
            yield Finding("note", "others", f"{name}: no array with a row a step {why}", "")
        numbers = _Numbers(list(found.fields))
        for finding in _structure(path, file, demos, found, numbers):
            wrong |= finding.check in _SPOILS
            yield finding
        yield from _total(file, sum(numbers.steps))
    data.keys = [_OWN.get(name, name) for name in found.names]
    if not wrong:
        whole = {k: np.concatenate(numbers.parts.pop(k)) for k, v in [*numbers.parts.items()] if v}
        data.arrays = {_OWN.get(k, k): v for k, v in whole.items()}
        data.ends = np.cumsum(numbers.steps)


class _Numbers:
    """Narrow arrays, ``(steps, columns)`` a demonstration, and the demonstrations' steps."""

    def __init__(self, names: list[str]) -> None:
        self.parts: dict[str, list[Values]] = {name: [] for name in names}
        self.steps: list[int] = []


def _structure(
    path: Path, file: Any, demos: list[str], found: Scan, numbers: _Numbers
) -> Iterator[Finding]:
    """Yield faults of the demonstrations, and put their numbers into ``numbers``."""
    yield from _lacking(file["data"][demos[0]], demos[0], found.names)
    for check, fault in found.all_faults:
        yield error(check, fault.where, fault.found, fault.fix)
    for demo in demos:
        group = file["data"][demo]
        arrays, _ = find(path, group)
        steps = count_steps(group, arrays)
        numbers.steps.append(steps)
        yield from _samples(group, f"data/{demo}", steps)
        for name in found.fields:
            native = found.names[name]
            yield from _values(f"data/{demo}/{native}", arrays[native], numbers.parts[name])


def _values(where: str, handle: Any, rows: list[Values]) -> Iterator[Finding]:
    """Say where an array is damaged or not finite; keep it if it is narrow."""
    try:
        narrow = np.prod(handle.shape[1:]) <= MAX_COLUMNS
        values = handle[()] if narrow else handle  # the others are read block by block
        bad = nonfinite_rows(values)
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as problem:
        yield error("read", where, f"cannot be read ({problem})", "copy the file again")
        return
    if bad.size:
        found = f"NaN or inf in {bad.size} rows, first at step {bad[0]}"
        yield error("finite", where, found, "repair or drop that demonstration")
    elif narrow and handle.size:
        rows.append(np.asarray(values, np.float64).reshape(len(values), -1))


def _lacking(demo: Any, which: str, names: Mapping[str, str]) -> Iterator[Finding]:
    """Name what robomimic needs and the first demonstration has not."""
    for group in ("actions", "obs"):
        if group not in demo:
            found = f"missing; {which} holds {', '.join(names.values())}"
            fix = "robomimic needs it: its scripts convert_robosuite.py and "
            fix += "dataset_states_to_obs.py write it from the states"
            yield error("arrays", f"data/{which}/{group}", found, fix)


def _total(file: Any, steps: int) -> Iterator[Finding]:
    total = file["data"].attrs.get("total")
    if total is not None and total != steps:
        found = f"says {total} samples, the demonstrations have {steps}"
        yield Finding("warning", "total", f"data.attrs[total]: {found}", "write it again")


def _env_args(file: Any) -> Iterator[Finding]:
    where = "data.attrs[env_args]"
    fix = "store json.dumps({'env_name': ..., 'type': ..., 'env_kwargs': {...}}) there"
    text = file["data"].attrs.get("env_args")
    if text is None:
        yield error("env_args", where, "missing, so that no environment can be made from it", fix)
        return
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as problem:
        yield error("env_args", where, f"is not JSON ({problem})", fix)
        return
    if isinstance(values, dict) and "env_name" in values and {"type", "env_type"} & set(values):
        if "env_kwargs" not in values:  # as Isaac Lab writes it
            found = f"{where}: holds {', '.join(values)} and no env_kwargs"
            yield Finding("note", "env_args", f"{found}: no environment is made from it here", "")
        return
    has = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
    yield error("env_args", where, f"holds {has or 'nothing'}", fix)


def _filter_keys(path: Path, file: Any, wanted: str | None) -> Iterator[Finding]:
    for key in dict.fromkeys([*filter_keys(file), *([wanted] if wanted else [])]):
        try:
            masked(path, file, key)
        except ReplayError as fault:
            yield error("filter", fault.where, fault.found, fault.fix)


def _samples(demo: Any, where: str, steps: int) -> Iterator[Finding]:
    """Compare what a demonstration says of its steps with those it has."""
    said = demo.attrs.get("num_samples")
    fix = "write the number of steps there: robomimic counts with it"
    if said is None:
        yield error("samples", f"{where}.attrs[num_samples]", "missing", fix)
    elif said != steps:
        found = f"says {said}, actions have {steps} rows"
        yield error("samples", f"{where}.attrs[num_samples]", found, fix)
    if not steps:
        yield error("lengths", where, "holds no steps", "remove that demonstration")


def describe(path: Path) -> list[str]:
    """Return lines on a file: how it was made, its environment, filter keys."""
    with open_file(path) as file:
        demonstrations(path, file)
        attrs = {key: text(file["data"].attrs.get(key)) for key in file["data"].attrs}
        masks = {key: len(names) for key, names in filter_keys(file).items()}
    lines = []
    try:
        env = json.loads(attrs.get("env_args", "{}"))
        lines.append(f"environment: {env.get('env_name', 'not stated')}")
    except (ValueError, TypeError, AttributeError, RecursionError):
        lines.append("environment: env_args are no JSON")
    if masks:
        lines.append("filter keys: " + ", ".join(f"{k} ({n})" for k, n in masks.items()))
    for key in ("made_by", "task", "by", "policy", "expert", "selection", "success_rate"):
        if key in attrs:
            lines.append(f"{key}: {attrs[key]}")
    return lines
