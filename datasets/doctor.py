"""What is wrong with a demonstration store, all of it at once, and how to mend it."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.replay import (
    ReplayError,
    count_rows,
    decoding,
    episode_faults,
    find_keys,
    length_faults,
    nonfinite_fault,
    nonfinite_rows,
    open_group,
    place,
    read_array,
    read_ends,
    row_blocks,
)
from pcm_policy.datasets.windows import parse_field
from pcm_policy.errors import PcmError

_LEVELS = ("error", "warning", "note")
_MAX_COLUMNS = 256  # wider arrays are images: only completeness and finiteness are checked
_OUTLIER = 1.0  # distance outside the 0.1 to 99.9 percentile range, over the width of that range
_JUMP = 4.0  # a step over the 99th percentile of steps; human Push-T stays below 2.1
_REPEATS = 0.05  # share of steps on which nothing at all changes
_LAGS = range(-5, 11)  # steps


Values = NDArray[np.float64]  # one signal: (n_steps, columns), finite


@dataclass(frozen=True)
class Finding:
    """One thing seen: an error spoils training, a warning may; a note needs no ``fix`` ("")."""

    level: Literal["error", "warning", "note"]
    check: str
    message: str
    fix: str


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
) -> Report:
    """Examine a store; nothing is raised for what is wrong with it.

    Args:
        path: folder or ``.zip``.
        obs: fields of the observation (``["keypoint", "state[0:2]"]``). The checks of values keep
            to them and the action; without any they take every array but images.
        action: field of the action.
        position: field in the units of the action, if the action is an absolute target
            (``"state[0:2]"``); checks that actions lead the positions they ask for.
    """
    path = Path(path)
    findings: list[Finding] = []
    try:
        with open_group(path) as group:
            findings.extend(_examine(path, group, list(obs), action, position))
    except ReplayError as fault:
        findings.append(_error("store", fault))
    return Report(path, tuple(sorted(findings, key=lambda f: _LEVELS.index(f.level))))


def format_report(report: Report) -> str:
    """Lay a report out for a terminal, 100 columns wide."""
    counts = [sum(f.level == level for f in report.findings) for level in _LEVELS]
    tally = ", ".join(
        f"{n} {level}{'s' * (n != 1)}" for n, level in zip(counts, _LEVELS, strict=True)
    )
    lines = [f"{report.path}: {tally}"]
    for finding in report.findings:
        head = f"{finding.level:<8} {finding.check:<10} "
        indent = " " * len(head)
        parts = [(head, finding.message), (indent, f"fix: {finding.fix}" if finding.fix else "")]
        for start, text in parts:
            if text:
                lines += textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


def summary(path: str | Path) -> str:
    """Describe a store: episodes, steps, and for each array its shape, dtype and range.

    Raises:
        ReplayError: the store, its arrays or its episode ends are missing, damaged or inconsistent.
    """
    path = Path(path)
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
    lengths = np.diff(ends, prepend=0)
    spread = f"{lengths.min()} to {lengths.max()} steps, median {np.median(lengths):g}"
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([str(path), f"{len(ends)} episodes, {n_steps} rows; {spread}", *table])


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
    path: Path, group: zarr.Group, obs: list[str], action: str, position: str | None
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

    checked = list(dict.fromkeys([action, *(obs or arrays)]))
    signals: dict[str, Values] = {}
    for text in dict.fromkeys([*checked, *([position] if position else [])]):
        try:
            field = parse_field(text)
            if field.key not in handles:
                found = f"data/{field.key}: missing; data holds {', '.join(handles)}"
                yield Finding("error", "arrays", found, "name one of these")
            elif field.key in arrays:
                signals[text] = field.columns(arrays[field.key]).astype(np.float64)
        except PcmError as error:
            yield Finding("error", "arrays", str(error), "pcm-data info lists the arrays")
    for text in checked:
        if text in signals:
            yield from _values(text, signals[text], ends)
    if ends is None:
        return
    yield from _short(ends)
    yield from _repeats([signals[text] for text in checked if text in signals], ends)
    for text in checked:
        if text in signals and text != action:  # actions may jump, what they move may not
            yield from _jumps(text, signals[text], ends)
    if position in signals and action in signals:
        yield from _alignment(signals[action], signals[position], position, ends)


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
        bad = nonfinite_rows(handle)
        if handle.dtype.kind != "f":
            for _ in row_blocks(handle):
                pass  # nonfinite_rows did not read it; damage shows in decoding
    if absent:
        found = f"data/{key}: {absent} of {handle.nchunks} chunks are not stored, "
        found += f"so they read as {handle.fill_value}"
        yield Finding("warning", "chunks", found, "copy the store again if files were lost")
    if bad.size:
        yield _error("finite", nonfinite_fault(path, key, bad, ends))
    elif handle.dtype.kind in "biuf" and np.prod(handle.shape[1:]) <= _MAX_COLUMNS:
        values = read_array(path, f"data/{key}", handle).astype(np.float64)
        arrays[key] = values.reshape(len(values), -1)


def _values(name: str, values: Values, ends: NDArray[np.int64] | None) -> Iterator[Finding]:
    """Constant columns and far outliers."""
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if constant.size:
        found = f"{name}: columns {_few(constant)} of {values.shape[1]} never change"
        yield Finding("warning", "constant", found, "leave them out: they cannot be normalised")
    # Whole order statistics, so that the one outlier of a short recording cannot widen the range.
    low = np.percentile(values, 0.1, axis=0, method="higher")
    high = np.percentile(values, 99.9, axis=0, method="lower")
    outside = np.maximum(values - high, low - values)
    rows, columns = np.nonzero(outside > np.where(high > low, _OUTLIER * (high - low), np.inf))
    if rows.size:
        worst = int(outside[rows, columns].argmax())
        row, column = rows[worst], columns[worst]
        found = f"{name}: {rows.size} values lie far outside the range of the others, farthest "
        found += f"{values[row, column]:g} in column {column} at {place(row, ends)}, where 99.8% "
        found += f"lie in {low[column]:g} to {high[column]:g}"
        yield Finding("warning", "range", found, "repair or drop them: they squeeze min-max ranges")


def _short(ends: NDArray[np.int64]) -> Iterator[Finding]:
    lengths = np.diff(ends, prepend=0)
    short = np.flatnonzero(lengths < max(2.0, float(np.median(lengths)) / 10))
    if short.size:
        found = f"{short.size} episodes have under a tenth of the median {np.median(lengths):g} "
        found += f"steps: {_few(short)}"
        yield Finding("warning", "short", found, "drop them if they are false starts")


def _within(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that have a successor in their episode."""
    return np.setdiff1d(np.arange(ends[-1]), ends - 1)


def _repeats(signals: list[Values], ends: NDArray[np.int64]) -> Iterator[Finding]:
    rows = _within(ends)
    if not signals or not rows.size:
        return
    same = np.logical_and.reduce([(x[rows + 1] == x[rows]).all(axis=1) for x in signals])
    if same.mean() > _REPEATS:
        found = f"{same.mean():.0%} of steps repeat the one before in every array, first at "
        found += place(int(rows[same][0]) + 1, ends)
        fix = "drop idle or doubled frames, or check the recording rate"
        yield Finding("warning", "repeats", found, fix)


def _jumps(name: str, values: Values, ends: NDArray[np.int64]) -> Iterator[Finding]:
    """Steps many times the usual one; columns count by their range, so units do not matter."""
    rows = _within(ends)
    span = np.ptp(values, axis=0)
    if not rows.size or not span.any():
        return
    change = (values[rows + 1] - values[rows]) / np.where(span > 0, span, 1)
    step = np.sqrt((change**2).sum(axis=1))
    usual = float(np.percentile(step, 99, method="lower"))
    jumps = np.flatnonzero(step > _JUMP * usual) if usual else np.empty(0, dtype=np.int64)
    if jumps.size:
        worst = jumps[step[jumps].argmax()]
        found = f"{name}: {jumps.size} jumps within episodes, the largest before "
        found += f"{place(int(rows[worst]) + 1, ends)}: {step[worst] / usual:.0f} times the 99th "
        found += f"percentile of steps, most of it in column {np.abs(change[worst]).argmax()}"
        fix = "if an episode ends there, add its end; if an angle wraps, use its sine and cosine"
        yield Finding("warning", "jumps", found, fix)


def _alignment(
    action: Values, position: Values, name: str, ends: NDArray[np.int64]
) -> Iterator[Finding]:
    """Find the lag at which positions match actions best: absolute targets come first."""
    if action.shape != position.shape:
        found = f"{name} has {position.shape[1]} columns, the action {action.shape[1]}"
        yield Finding("error", "alignment", found, "name the columns that the action sets")
        return
    episode = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    error: dict[int, float] = {}
    for lag in _LAGS:
        rows = np.arange(max(0, -lag), min(len(action), len(action) - lag))
        rows = rows[episode[rows] == episode[rows + lag]]
        if rows.size:
            error[lag] = float(((action[rows] - position[rows + lag]) ** 2).sum(axis=1).mean())
    spread = float(position.var(axis=0).sum())
    if not error or not spread:
        return
    best = min(error, key=error.__getitem__)
    if error[best] > spread / 2:
        found = f"the action matches {name} at no lag of {_LAGS.start} to {_LAGS.stop - 1} steps"
        fix = "check units and columns; give no position if the action is no absolute target"
        yield Finding("warning", "alignment", found, fix)
    elif best > 0:
        yield Finding("note", "alignment", f"{name} follows the action at a lag of {best}", "")
    else:
        found = f"the action matches {name} at a lag of {best}: it is recorded late, or is the "
        found += "position itself"
        fix = f"shift the actions {1 - best} or more steps earlier within each episode"
        yield Finding("error" if best < 0 else "warning", "alignment", found, fix)


def _few(numbers: NDArray[np.int64]) -> str:
    """Write the first five numbers of a list."""
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
