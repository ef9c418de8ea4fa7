"""``convert``: from one format to another, an episode at a time.

Memory: the longest episode, what a writer holds back (64 MiB of zarr rows) and the index of the
episodes; ``benchmarks/convert_memory.py`` measures it, docs/adopt.md has the figures.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats import registry
from pcm_policy.datasets.formats.base import WriteOptions
from pcm_policy.datasets.recording import Episode, Recording
from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class Converted:
    """What was converted.

    Attributes:
        source: format of the source.
        target: format of the target.
        episodes: number of episodes.
        fields: names of the arrays in the target.
        lost: what the source holds and the target does not.
        notes: what users of the target may miss.
    """

    source: str
    target: str
    episodes: int
    fields: tuple[str, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for each thing to know."""
        lines = [
            f"{self.source} -> {self.target}: {self.episodes} episodes, {', '.join(self.fields)}"
        ]
        lines += [f"not converted: {line}" for line in self.lost]
        return "\n".join([*lines, *(f"note: {line}" for line in self.notes)])


def source_format(path: Path) -> str:
    """Return the name of a source's format; PcmError as ``registry.source_format``."""
    return registry.source_format(path).name


def target_format(path: Path) -> str:
    """Return the name of the format of a target; PcmError as ``registry.target_format``."""
    return registry.target_format(path).name


def convert(
    source: str | Path,
    target: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    fps: float | None = None,
    zarr_format: Literal[2, 3] = 2,
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0",
    lerobot_video: Literal["av1", "h264"] | None = None,
    images: Sequence[str] | str = (),
) -> Converted:
    """Convert demonstrations; the target appears whole or not at all.

    Args:
        source: replay buffer (zarr 2 or 3, folder or zip), robomimic HDF5, LeRobot v2.x or v3, or
            a Minari data set, its folder or ``minari:ID``.
        target: a new path, see :func:`~.formats.registry.target_format`.
        rename: new names of arrays, by old ones.
        leave_out: arrays that are not converted, nor read.
        fps: rate of the recording, for LeRobot, where the source does not say it.
        zarr_format: of a zarr target.
        lerobot_version: of a LeRobot target.
        lerobot_video: how its cameras are encoded; None for pictures, which nothing changes.
        images: camera entries of a LeRobot source to decode, or ``all``; the others are left out.

    Raises:
        PcmError: the target exists, a name is unknown, an optional package is missing, the source
            is damaged, or the target's format cannot hold an array.
    """
    source, target = Path(source), Path(target)
    known, wanted = registry.source_format(source), registry.target_format(target)
    refuse_existing(target)
    recording = known.read(source, images)
    if fps is not None:
        if not 0 < fps < float("inf"):
            raise PcmError(f"fps={fps}: give the rate of the recording, in steps a second")
        recording = replace(recording, meta={**recording.meta, "fps": fps})
    names = _names(recording, dict(rename or {}), leave_out)
    try:
        options = WriteOptions(zarr_format, lerobot_version, lerobot_video)
        notes = write_recording(target, _named(recording, names), options)
    except ReplayError as fault:
        old = next((old for old, new in names.items() if new == fault.array), None)
        if old is None:
            raise
        raise fault.but(f"leave_out=[{old}] leaves it out") from fault
    bound = () if wanted.name == "robomimic" else recording.bound
    lost = {name: why for name, why in recording.lost.items() if name not in leave_out}
    lines = [f"{name} {why}".strip() for name, why in lost.items()]
    return Converted(
        known.name,
        wanted.name,
        recording.n_episodes,
        tuple(names.values()),
        (*lines, *bound, *dict.fromkeys(leave_out)),
        tuple(notes),
    )


USUAL = WriteOptions()


def write_recording(target: Path, recording: Recording, options: WriteOptions = USUAL) -> list[str]:
    """Write a recording in the format that the target's name says, whole or not at all.

    Returns:
        What users of the target may miss.

    Raises:
        PcmError: as :func:`convert`.
    """
    wanted, place = registry.target_format(target), refuse_existing(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return wanted.write(target, recording, options)
    except OSError as error:
        fix = "free some space or choose another folder"
        raise ReplayError(target, "store", f"cannot be written ({error})", fix) from error


def refuse_existing(target: Path) -> Path:
    """Return the folder or file that a target is; ReplayError when it is there already."""
    place = registry.target_format(target).place(target)
    if place.exists() or place.is_symlink():
        raise ReplayError(place, "store", "exists already", "remove it or choose another name")
    return place


def _names(
    recording: Recording, rename: dict[str, str], leave_out: Sequence[str]
) -> dict[str, str]:
    """Return the names in the target of all arrays that are converted, by those in the source."""
    for name in leave_out:
        if name not in (*recording.fields, *recording.faults, *recording.lost):
            there = ", ".join([*recording.fields, *recording.faults])
            raise PcmError(f"{recording.path} has no array {name}: it has {there}")
    for name, fault in recording.faults.items():
        if name not in leave_out:
            raise fault.but(f"leave_out=[{name}] leaves it out")
    for name in rename:
        if name not in recording.fields:
            there = ", ".join(recording.fields)
            why = recording.lost.get(name)
            held = "has no array" if why is None else f"cannot convert {why}"
            raise PcmError(f"{recording.path} {held} {name}: it has {there}")
    kept = [name for name in recording.fields if name not in leave_out]
    names = {name: rename.get(name, name) for name in kept}
    if len(set(names.values())) != len(names):
        raise PcmError(f"{recording.path}: rename={rename} gives two arrays one name")
    if not all(names.values()):
        raise PcmError(f"{recording.path}: rename={rename} gives an array no name")
    if not names:
        raise PcmError(f"{recording.path}: leave_out leaves nothing to convert")
    return names


def _named(recording: Recording, names: Mapping[str, str]) -> Recording:
    """Return a recording of these arrays alone, under their new names."""
    old_names = {new: old for old, new in names.items()}

    def episodes(wanted: Collection[str]) -> Iterator[Episode]:
        try:
            for episode in recording.read([old_names[new] for new in wanted]):
                yield {new: episode[old_names[new]] for new in wanted}
        except ReplayError as fault:
            if fault.array is None:
                raise
            raise fault.but(f"leave_out=[{fault.array}] leaves it out") from fault

    fields = {new: recording.fields[old] for old, new in names.items()}
    return replace(recording, fields=fields, episodes=episodes, lost={}, faults={})
