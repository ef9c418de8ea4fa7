"""``pcm-data info`` and ``validate``: describe demonstrations of any format, and find faults."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcm_policy.datasets.doctor import checks
from pcm_policy.datasets.errors import ReplayError, plain
from pcm_policy.datasets.findings import Finding, Values
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.formats.store_faults import error
from pcm_policy.datasets.gathered import Gathered, sweep
from pcm_policy.datasets.recording import Episode
from pcm_policy.errors import PcmError
from pcm_policy.fields import parse_field

_LEVELS = ("error", "warning", "note")
_ACTIONS = ("action", "actions")
_NO_SIGNALS = (
    *("reward", "rewards", "done", "dones", "terminated", "truncated", "states"),
    *("timestamp", "task_index"),
)
_NO_GROUPS = ("next", "next_obs", "info")


@dataclass(frozen=True)
class Report:
    """All findings about one set of demonstrations, the gravest first."""

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
    action: str | None = None,
    position: str | None = None,
    filter_key: str | None = None,
    min_steps: int = 8,
) -> Report:
    """Examine demonstrations of any format; nothing is raised for what is wrong with them.

    Args:
        path: what :func:`~pcm_policy.datasets.convert.convert` reads.
        obs: fields of the observation (``["keypoint", "state[0:2]"]``). The checks of values keep
            to them and the action; without any they take every array but images, rewards and ends.
        action: field of the action; None for ``action`` or ``actions``, whichever is there.
        position: field in the units of the action, if the action is an absolute target
            (``"state[0:2]"``); checks that actions lead the positions they ask for.
        filter_key: one that a robomimic file must have.
        min_steps: steps of the shortest episode that gives a window to train on.
    """
    path = Path(path)
    findings: list[Finding] = []
    data = Gathered()
    try:
        found = source_format(path)
        findings.extend(found.examine(path, data, filter_key))
    except ReplayError as fault:
        findings.append(error("store", fault))
    else:
        named = action or next((name for name in _ACTIONS if name in data.keys), None)
        findings.extend(_values(data, obs, named, position, min_steps))
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
            lines += textwrap.wrap(plain(text), 100, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


class _Ranges:
    """Lengths of the episodes, smallest and largest value of every array."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.bounds: dict[str, tuple[float, float]] = {}

    def add(self, episode: Episode) -> None:
        self.lengths.append(len(next(iter(episode.values()))))
        for name, values in episode.items():
            if values.size:
                low, high = self.bounds.get(name, (np.inf, -np.inf))
                low = float(np.fmin(low, values.min()))
                self.bounds[name] = low, float(np.fmax(high, values.max()))


def summary(path: str | Path) -> str:
    """Describe demonstrations: episodes, steps, and for each array its shape, dtype and range.

    An array that cannot be read is listed with the reason.

    Raises:
        PcmError: the source is missing, of no format that is known, or damaged as a whole.
    """
    path = Path(path)
    known = source_format(path)
    recording = known.read(path)
    found, faults = sweep(recording, _Ranges)
    steps = sum(found.lengths)
    rows = [("array", "shape", "dtype", "range")]
    for name, step in recording.fields.items():
        if name not in faults:
            low, high = found.bounds.get(name, (np.nan, np.nan))
            spread = "-" if name not in found.bounds else f"{low:g} to {high:g}"
            rows.append((plain(name), str((steps, *step.shape)), str(step.base), spread))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lengths = np.array(found.lengths)
    spread = f"{lengths.min()} to {lengths.max()} steps, median {np.median(lengths):g}"
    lines = [f"{len(lengths)} episodes, {steps} rows; {spread}", *table]
    lines += [
        f"cannot be read: {plain(name)}: {fault.found}; {fault.fix}"
        for name, fault in faults.items()
    ]
    lines += [f"no array: {plain(f'{name} {why}')}" for name, why in recording.lost.items()]
    lines += known.describe(path)
    return "\n".join([str(path), *lines])


def _values(
    data: Gathered, obs: Sequence[str], action: str | None, position: str | None, min_steps: int
) -> Iterator[Finding]:
    """Yield what looks wrong with the numbers themselves."""
    checked = [*([action] if action else []), *(obs or filter(_is_signal, data.arrays))]
    checked = list(dict.fromkeys(checked))
    signals: dict[str, Values] = {}
    for text in dict.fromkeys([*checked, *([position] if position else [])]):
        try:
            field = parse_field(text) if text not in data.arrays else None
            key = text if field is None else field.key
            if key not in data.keys:
                found = f"data/{key}: missing; data holds {', '.join(data.keys)}"
                yield Finding("error", "arrays", found, "name one of these")
            elif key in data.arrays:
                values = data.arrays[key]
                signals[text] = values if field is None else _columns(field.columns(values))
        except PcmError as fault:
            yield Finding("error", "arrays", str(fault), "pcm-data info lists the arrays")
    usable = [text for text in checked if text in signals]
    for text in usable:
        yield from checks.ranges(text, signals[text], data.ends)
        yield from checks.precision(text, signals[text])
    if data.ends is None or not data.ends.size:
        return
    yield from checks.short_episodes(data.ends, min_steps)
    yield from checks.repeats([signals[text] for text in usable], data.ends)
    for text in usable:
        if text != action:  # actions may jump, what they move may not
            yield from checks.jumps(text, signals[text], data.ends)
    if position in signals and action in signals:
        yield from checks.alignment(signals[action], signals[position], position, data.ends)


def _columns(values: np.ndarray) -> Values:
    return values.astype(np.float64)


def _is_signal(name: str) -> bool:
    return name not in _NO_SIGNALS and name.partition(".")[0] not in _NO_GROUPS
