"""What is gathered of a recording, an episode at a time, and what is wrong with it as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.findings import Finding, Values
from pcm_policy.datasets.recording import Episode, Recording

MAX_COLUMNS = 256
"""Wider arrays are images: only that they are complete and finite is checked."""


@dataclass
class Gathered:
    """Numbers of a source, for the checks of values.

    Attributes:
        arrays: ``(n_steps, columns)`` float64, by name, of all that is whole and not wide.
        keys: names of everything that is there.
        ends: the row after the last of every episode; None where that is not known.
    """

    arrays: dict[str, Values] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    ends: NDArray[np.int64] | None = None


class Sink(Protocol):
    """Takes episodes."""

    def add(self, episode: Episode) -> None:
        """Take one."""


S = TypeVar("S", bound=Sink)


def sweep(recording: Recording, begin: Callable[[], S]) -> tuple[S, dict[str, ReplayError]]:
    """Read all episodes; an array that cannot be read does not stop the others.

    Args:
        recording: what is read.
        begin: makes what takes the episodes; a new one after every array that failed.

    Returns:
        The one that took all episodes, and the faults by array.

    Raises:
        ReplayError: no array can be read, or what is wrong is of no one array.
    """
    faults = dict(recording.faults)
    while True:
        names = [name for name in recording.fields if name not in faults]
        sink = begin()
        if not names:
            lost = [f"{name} {why}".strip() for name, why in recording.lost.items()]
            found = f"holds no array of numbers: {', '.join(lost) or 'nothing'}"
            raise next(
                iter(faults.values()),
                ReplayError(recording.path, "data", found, "name other demonstrations"),
            )
        try:
            for episode in recording.read(names):
                sink.add(episode)
            return sink, faults
        except ReplayError as fault:
            if fault.array not in names:
                raise
            faults[fault.array] = fault


class _Numbers:
    """Narrow arrays whole, of the others the rows that are not finite."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Values]] = {}
        self.bad: dict[str, list[int]] = {}
        self.ends: list[int] = []

    def add(self, episode: Episode) -> None:
        start = self.ends[-1] if self.ends else 0
        steps = len(next(iter(episode.values())))
        for name, values in episode.items():
            flat = values.reshape(steps, -1)
            if values.dtype.kind == "f":
                rows = np.flatnonzero(~np.isfinite(flat).all(axis=1))
                self.bad.setdefault(name, []).extend((start + rows).tolist())
            if flat.shape[1] <= MAX_COLUMNS:
                self.parts.setdefault(name, []).append(flat.astype(np.float64))
        self.ends.append(start + steps)


def examine_recording(recording: Recording, data: Gathered) -> Iterator[Finding]:
    """Yield what is wrong with a recording's structure, and gather its numbers.

    Raises:
        ReplayError: as :func:`sweep`.
    """
    found, faults = sweep(recording, _Numbers)
    for fault in faults.values():
        yield Finding("error", "read", f"{fault.where}: {fault.found}", fault.fix)
    for name, why in recording.lost.items():
        yield Finding("note", "others", f"{name}: no array with a row a step {why}".strip(), "")
    data.keys = list(recording.fields)
    data.ends = np.array(found.ends, np.int64)
    for name, rows in found.bad.items():
        if rows:
            episode = int(np.searchsorted(data.ends, rows[0], side="right"))
            text = f"{name}: NaN or inf in {len(rows)} rows, first at row {rows[0]} "
            fix = "repair or drop the episodes it is in"
            yield Finding("error", "finite", f"{text}(episode {episode})", fix)
    data.arrays = {
        name: np.concatenate(parts)
        for name, parts in found.parts.items()
        if not found.bad.get(name)
    }
