"""What can be wrong with a robomimic file: its structure, demonstration by demonstration."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.doctor.checks import Finding, Values
from pcm_policy.datasets.formats.robomimic import array_names, demonstrations, masked, open_file
from pcm_policy.datasets.formats.store import ReplayError, nonfinite_rows
from pcm_policy.datasets.recording import step_type

_ENV_ARGS = ("env_name", "env_kwargs")
_MAX_COLUMNS = 256  # wider arrays are images


def error(check: str, where: str, found: str, fix: str) -> Finding:
    """Return an error about the part ``where`` of a file."""
    return Finding("error", check, f"{where}: {found}", fix)


def examine(
    path: Path, filter_key: str | None, arrays: dict[str, Values], ends: list[int]
) -> Iterator[Finding]:
    """Yield what is wrong with the structure of a file and its numbers.

    Args:
        path: the file.
        filter_key: one that must be there, if any.
        arrays: gets every array of numbers but images, ``(n_steps, columns)``, by the names used
            here, unless something is wrong with its structure.
        ends: gets the row after the last of each demonstration.

    Raises:
        ReplayError: it cannot be opened, or holds no demonstrations.
    """
    with open_file(path) as file:
        demos = demonstrations(path, file)
        yield from _env_args(file)
        yield from _filter_keys(path, file, filter_key)
        names = array_names(path, file, file["data"][demos[0]])
        for group in ("actions", "obs"):
            if group not in file["data"][demos[0]]:
                found = f"missing; {demos[0]} holds {', '.join(names.values())}"
                yield error("arrays", f"data/{demos[0]}/{group}", found, "robomimic needs it")
        steps = 0
        broken: set[str] = set()
        parts: dict[str, list[Values]] = {name: [] for name in names}
        for demo in demos:
            for name, finding in _demonstration(file["data"], demo, demos[0], names, parts):
                broken.add(name)
                yield finding
            steps += _length(file["data"][demo], names)
            ends.append(steps)
        total = file["data"].attrs.get("total")
        if total is not None and int(total) != steps:
            found = f"says {total} samples, the demonstrations have {steps}"
            yield Finding("warning", "total", f"data.attrs[total]: {found}", "write it again")
        arrays.update({k: np.concatenate(v) for k, v in parts.items() if v and k not in broken})


def _env_args(file: Any) -> Iterator[Finding]:
    where = "data.attrs[env_args]"
    fix = "store json.dumps({'env_name': ..., 'type': ..., 'env_kwargs': {...}}) there"
    text = file["data"].attrs.get("env_args")
    if text is None:
        yield error("env_args", where, "missing, so that no environment can be made from it", fix)
        return
    try:
        values = json.loads(text)
    except (ValueError, TypeError) as problem:
        yield error("env_args", where, f"is not JSON ({problem})", fix)
        return
    kinds = {"type", "env_type"}
    if not isinstance(values, dict) or not kinds & set(values) or set(_ENV_ARGS) - set(values):
        has = ", ".join(values) if isinstance(values, dict) else type(values).__name__
        yield error("env_args", where, f"holds {has or 'nothing'}", fix)


def _filter_keys(path: Path, file: Any, wanted: str | None) -> Iterator[Finding]:
    there = list(file["mask"]) if "mask" in file else []
    for key in dict.fromkeys([*there, *([wanted] if wanted else [])]):
        try:
            masked(path, file, key)
        except ReplayError as fault:
            yield error("filter", fault.where, fault.found, fault.fix)


def _length(demo: Any, names: dict[str, str]) -> int:
    """Return the usual number of rows of a demonstration: that of its actions, if there are any."""
    for native in ("actions", *names.values()):
        if native in demo and demo[native].shape:
            return int(demo[native].shape[0])
    return 0


def _demonstration(
    data: Any, which: str, first: str, names: dict[str, str], parts: dict[str, list[Values]]
) -> Iterator[tuple[str, Finding]]:
    """Yield faults of a demonstration, each with the array it spoils; "" for none of them."""
    demo, steps = data[which], _length(data[which], names)
    said = demo.attrs.get("num_samples")
    fix = "write the number of steps there: robomimic counts with it"
    if said is None:
        yield "", error("samples", f"data/{which}.attrs[num_samples]", "missing", fix)
    elif int(said) != steps:
        found = f"says {said}, actions have {steps} rows"
        yield "", error("samples", f"data/{which}.attrs[num_samples]", found, fix)
    if not steps:
        fix = "remove that demonstration"
        yield "", error("lengths", f"data/{which}", "holds no steps", fix)
    for name, native in names.items():
        where = f"data/{which}/{native}"
        if native not in demo:
            fix = "remove that demonstration or add the array"
            yield name, error("arrays", where, f"missing, {first} has it", fix)
            continue
        handle = demo[native]
        if not handle.shape or handle.shape[0] != steps:
            found = f"has shape {handle.shape} where actions have {steps} rows"
            yield name, error("lengths", where, found, "write every array once per step")
            continue
        if native in data[first] and step_type(handle) != step_type(data[first][native]):
            found = f"has steps of {_step(handle)}, {first} of {_step(data[first][native])}"
            fix = "give every demonstration the same shapes and types"
            yield name, error("shapes", where, found, fix)
            continue
        try:
            narrow = handle.dtype.kind in "biuf" and np.prod(handle.shape[1:]) <= _MAX_COLUMNS
            values = handle[()] if narrow else handle  # the others are read block by block
            bad = nonfinite_rows(values)
            if narrow and handle.size:
                parts[name].append(np.asarray(values, np.float64).reshape(steps, -1))
        except (OSError, ValueError, TypeError, RuntimeError) as problem:
            yield name, error("read", where, f"cannot be read ({problem})", "copy the file again")
            continue
        if bad.size:
            found = f"NaN or inf in {bad.size} rows, first at step {bad[0]}"
            yield name, error("finite", where, found, "repair or drop that demonstration")


def _step(handle: Any) -> str:
    return f"{tuple(handle.shape[1:])} {handle.dtype}"


def describe(path: Path) -> list[str]:
    """Return lines on a file: how it was made, its environment, filter keys."""
    with open_file(path) as file:
        demonstrations(path, file)
        attrs = dict(file["data"].attrs)
        masks = {key: len(values) for key, values in file.get("mask", {}).items()}
    lines = []
    try:
        env = json.loads(attrs.get("env_args", "{}"))
        lines.append(f"environment: {env.get('env_name', 'not stated')}")
    except ValueError:
        lines.append("environment: env_args are no JSON")
    if masks:
        lines.append("filter keys: " + ", ".join(f"{k} ({n})" for k, n in masks.items()))
    for key in ("made_by", "task", "by", "policy", "expert", "selection", "success_rate"):
        if key in attrs:
            lines.append(f"{key}: {attrs[key]}")
    return lines
