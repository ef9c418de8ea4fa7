"""What is wrong with a demonstration store, all of it at once, and how to mend it."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.doctor import checks
from pcm_policy.datasets.doctor import robomimic as doctor_robomimic
from pcm_policy.datasets.doctor.checks import Finding, Values
from pcm_policy.datasets.formats.robomimic import read_robomimic
from pcm_policy.datasets.formats.store import (
    ReplayError,
    count_rows,
    decoding,
    episode_faults,
    find_keys,
    length_faults,
    nonfinite_fault,
    nonfinite_rows,
    open_group,
    read_array,
    read_ends,
    row_blocks,
)
from pcm_policy.datasets.open import is_hdf5
from pcm_policy.errors import PcmError
from pcm_policy.fields import parse_field

_LEVELS = ("error", "warning", "note")
_MAX_COLUMNS = 256  # wider arrays are images: only completeness and finiteness are checked


@dataclass(frozen=True)
class Report:
    """All findings about one store, the gravest first."""

    path: Path
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.level != "error" for finding in self.findings)


def validate(
    path: str | Path,
    *,
    obs: Sequence[str] = (),
    action: str = "action",
    position: str | None = None,
    filter_key: str | None = None,
) -> Report:
    """Examine a store; nothing is raised for what is wrong with it.

    Args:
        path: folder or ``.zip`` of a replay buffer, or a robomimic file.
        obs: fields of the observation (``["keypoint", "state[0:2]"]``). The checks of values keep
            to them and the action; without any they take every array but images.
        action: field of the action.
        position: field in the units of the action, if the action is an absolute target
            (``"state[0:2]"``); checks that actions lead the positions they ask for.
        filter_key: one that a robomimic file must have.
    """
    path = Path(path)
    findings: list[Finding] = []
    try:
        if is_hdf5(path):
            findings.extend(_examine_hdf5(path, obs, action, position, filter_key))
            return Report(path, tuple(sorted(findings, key=lambda f: _LEVELS.index(f.level))))
        with open_group(path) as group:
            findings.extend(_examine(path, group, obs, action, position))
    except ReplayError as fault:
        findings.append(_error("store", fault))
    return Report(path, tuple(sorted(findings, key=lambda f: _LEVELS.index(f.level))))


def format_report(report: Report) -> str:
    """Lay a report out for a terminal, 100 columns wide."""
    counts = [sum(f.level == level for f in report.findings) for level in _LEVELS]
    tally = [f"{n} {level}{'s' * (n != 1)}" for n, level in zip(counts, _LEVELS, strict=True)]
    lines = [f"{report.path}: {', '.join(tally)}"]
    for finding in report.findings:
        head = f"{finding.level:<8} {finding.check:<10} "
        indent = " " * len(head)
        parts = [(head, finding.message), (indent, f"fix: {finding.fix}" if finding.fix else "")]
        for start, text in parts:
            lines += textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


def summary(path: str | Path) -> str:
    """Describe a store: episodes, steps, and for each array its shape, dtype and range.

    Raises:
        ReplayError: the store, its arrays or its episode ends are missing, damaged or inconsistent.
    """
    path = Path(path)
    if is_hdf5(path):
        return _summary_hdf5(path)
    with open_group(path) as group:
        handles = find_keys(path, group)
        ends = read_ends(path, group)
        n_steps = statistics.mode(count_rows(handles).values())
        for fault in episode_faults(path, ends, n_steps):
            raise fault
        rows = [("array", "shape", "dtype", "range")]
        for key, handle in handles.items():
            with decoding(path, f"data/{key}"):
                rows.append((key, str(handle.shape), str(handle.dtype), _range(handle)))
    return "\n".join([str(path), *_table(ends, n_steps, rows)])


def _table(ends: NDArray[np.int64], n_steps: int, rows: Sequence[tuple[str, ...]]) -> list[str]:
    lengths = np.diff(ends, prepend=0)
    spread = f"{lengths.min()} to {lengths.max()} steps, median {np.median(lengths):g}"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [f"{len(ends)} episodes, {n_steps} rows; {spread}", *table]


def _summary_hdf5(path: Path) -> str:
    recording = read_robomimic(path)
    bounds: dict[str, tuple[float, float]] = {}
    lengths = []
    for episode in recording.episodes():
        lengths.append(len(next(iter(episode.values()))))
        for name, values in episode.items():
            if values.dtype.kind in "biuf" and values.size:
                low, high = bounds.get(name, (np.inf, -np.inf))
                bounds[name] = min(low, float(values.min())), max(high, float(values.max()))
    steps = sum(lengths)
    rows = [("array", "shape", "dtype", "range")]
    for name, step in recording.fields.items():
        spread = "{:g} to {:g}".format(*bounds[name]) if name in bounds else "-"
        rows.append((name, str((steps, *step.shape)), str(step.base), spread))
    lines = [*_table(np.cumsum(lengths), steps, rows), *doctor_robomimic.describe(path)]
    return "\n".join([str(path), *lines])


def _range(array: zarr.Array[Any]) -> str:
    if array.dtype.kind not in "biuf" or not array.shape or not array.size:
        return "-"
    bounds = [(block.min(), block.max()) for block in row_blocks(array)]
    low, high = float(np.min(bounds)), float(np.max(bounds))
    return f"{low:g} to {high:g}"


def _error(check: str, fault: ReplayError) -> Finding:
    where = "" if fault.where == "store" else f"{fault.where}: "
    return Finding("error", check, where + fault.found, fault.fix)


def _examine(
    path: Path, group: zarr.Group, obs: Sequence[str], action: str, position: str | None
) -> Iterator[Finding]:
    handles = find_keys(path, group)
    n_rows = count_rows(handles)
    uneven = length_faults(path, n_rows)
    yield from (_error("lengths", fault) for fault in uneven)
    ends: NDArray[np.int64] | None = None
    try:
        stored = read_ends(path, group)
        wrong = episode_faults(path, stored, statistics.mode(n_rows.values()))
        yield from (_error("episodes", fault) for fault in wrong)
        ends = None if wrong or uneven else stored.astype(np.int64)
    except ReplayError as fault:
        yield _error("episodes", fault)

    arrays: dict[str, Values] = {}
    for key, handle in handles.items():
        try:
            yield from _stored(path, key, handle, ends, arrays)
        except ReplayError as fault:
            yield _error("read", fault)

    yield from _values(arrays, list(handles), ends, obs, action, position)


def _examine_hdf5(
    path: Path,
    obs: Sequence[str],
    action: str,
    position: str | None,
    filter_key: str | None,
) -> Iterator[Finding]:
    arrays: dict[str, Values] = {}
    ends: list[int] = []
    wrong = False
    for finding in doctor_robomimic.examine(path, filter_key, arrays, ends):
        wrong |= finding.check in ("lengths", "arrays", "shapes", "read", "finite")
        yield finding
    own = {"actions": "action", "rewards": "reward", "dones": "done"}
    arrays = {own.get(k, k): v for k, v in arrays.items() if not k.startswith("next_obs.")}
    if not wrong:
        obs = obs or [k for k in arrays if k not in ("reward", "done", "states")]
        yield from _values(arrays, list(arrays), np.array(ends), obs, action, position)


def _values(
    arrays: dict[str, Values],
    keys: Sequence[str],
    ends: NDArray[np.int64] | None,
    obs: Sequence[str],
    action: str,
    position: str | None,
) -> Iterator[Finding]:
    """Yield what looks wrong with the numbers themselves."""
    checked = list(dict.fromkeys([action, *(obs or arrays)]))
    signals: dict[str, Values] = {}
    for text in dict.fromkeys([*checked, *([position] if position else [])]):
        try:
            field = parse_field(text)
            if field.key not in keys:
                found = f"data/{field.key}: missing; data holds {', '.join(keys)}"
                yield Finding("error", "arrays", found, "name one of these")
            elif field.key in arrays:
                signals[text] = field.columns(arrays[field.key]).astype(np.float64)
        except PcmError as error:
            yield Finding("error", "arrays", str(error), "pcm-data info lists the arrays")
    usable = [text for text in checked if text in signals]
    for text in usable:
        yield from checks.ranges(text, signals[text], ends)
    if ends is None:
        return
    yield from checks.short_episodes(ends)
    yield from checks.repeats([signals[text] for text in usable], ends)
    for text in usable:
        if text != action:  # actions may jump, what they move may not
            yield from checks.jumps(text, signals[text], ends)
    if position in signals and action in signals:
        yield from checks.alignment(signals[action], signals[position], position, ends)


def _stored(
    path: Path,
    key: str,
    handle: zarr.Array[Any],
    ends: NDArray[np.int64] | None,
    arrays: dict[str, Values],
) -> Iterator[Finding]:
    """Check that an array is complete and finite; put it into ``arrays`` unless it is wide."""
    if not handle.size or not handle.shape:
        return  # nothing to read; length_faults names missing rows
    with decoding(path, f"data/{key}"):
        absent = handle.nchunks - handle.nchunks_initialized
        bad = nonfinite_rows(handle)  # reads every block: damage shows in decoding
    if absent:
        found = f"data/{key}: {absent} of {handle.nchunks} chunks are not stored, "
        found += f"so they read as {handle.fill_value}"
        yield Finding("warning", "chunks", found, "copy the store again if files were lost")
    if bad.size:
        yield _error("finite", nonfinite_fault(path, key, bad, ends))
    elif handle.dtype.kind in "biuf" and np.prod(handle.shape[1:]) <= _MAX_COLUMNS:
        values = read_array(path, f"data/{key}", handle).astype(np.float64)
        arrays[key] = values.reshape(len(values), -1)
