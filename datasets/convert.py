"""``convert``: from one format to another, an episode at a time.

Memory: the longest episode, what a writer holds back (64 MiB of zarr rows) and the index of the
episodes; ``benchmarks/convert_memory.py`` measures it, docs/adopt.md has the figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pcm_policy.datasets.formats.lerobot import read_lerobot
from pcm_policy.datasets.formats.lerobot_writing import write_lerobot
from pcm_policy.datasets.formats.minari import (
    SCHEME,
    is_minari,
    minari_folder,
    read_minari,
)
from pcm_policy.datasets.formats.minari_writing import write_minari
from pcm_policy.datasets.formats.robomimic import read_robomimic, write_robomimic
from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.recording import META, Episode, Recording, read_zarr
from pcm_policy.errors import PcmError

Format = Literal["zarr", "robomimic", "lerobot", "minari"]


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

    source: Format
    target: Format
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


def source_format(path: Path) -> Format:
    """Tell a source's format by what it is; PcmError when it does not exist."""
    if is_minari(path):
        return "minari"
    if not path.exists():
        raise ReplayError(path, "store", "does not exist", "check the path")
    if path.is_dir():
        return "lerobot" if (path / "meta/info.json").is_file() else "zarr"
    with path.open("rb") as file:
        return "robomimic" if file.read(8) == b"\x89HDF\r\n\x1a\n" else "zarr"


def target_format(path: Path) -> Format:
    """Tell a target's format by its name.

    ``.zarr`` and ``.zip`` are replay buffers, ``.hdf5`` and ``.h5`` robomimic's, ``minari:ID``
    Minari's, and a folder without suffix LeRobot's.
    """
    if str(path).startswith(SCHEME):
        return "minari"
    if path.suffix in (".zarr", ".zip"):
        return "zarr"
    if path.suffix in (".hdf5", ".h5"):
        return "robomimic"
    if path.suffix == "":
        return "lerobot"
    raise PcmError(
        f"{path}: name the target *.zarr or *.zarr.zip (replay buffer), *.hdf5 (robomimic), "
        "minari:ID, or a folder without suffix (LeRobot)"
    )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    fps: float | None = None,
    zarr_format: Literal[2, 3] = 2,
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0",
    images: Sequence[str] | str = (),
) -> Converted:
    """Convert demonstrations; the target appears whole or not at all.

    Args:
        source: replay buffer (zarr 2 or 3, folder or zip), robomimic HDF5, LeRobot v2.x or v3, or
            a Minari data set, its folder or ``minari:ID``.
        target: a new path, see :func:`target_format`.
        rename: new names of arrays, by old ones.
        leave_out: arrays that are not converted.
        fps: rate of the recording, for LeRobot, where the source does not say it.
        zarr_format: of a zarr target.
        lerobot_version: of a LeRobot target.
        images: camera entries of a LeRobot source to decode, or ``all``; the others are left out.

    Raises:
        PcmError: the target exists, a name is unknown, an optional package is missing, the source
            is damaged, or the target's format cannot hold an array.
    """
    source, target = Path(source), Path(target)
    kind, wanted = source_format(source), target_format(target)
    refuse_existing(target)
    recording = _read(kind, source, images)
    if fps is not None:
        recording = replace(recording, meta={**recording.meta, "fps": fps})
    recording = _named(recording, dict(rename or {}), leave_out)
    notes = write_recording(target, recording, zarr_format, lerobot_version)
    bound = () if wanted == "robomimic" else recording.bound
    lost = (*recording.lost, *bound, *leave_out)
    return Converted(
        kind, wanted, recording.n_episodes, tuple(recording.fields), lost, tuple(notes)
    )


def write_recording(
    target: Path,
    recording: Recording,
    zarr_format: Literal[2, 3] = 2,
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0",
) -> list[str]:
    """Write a recording in the format that the target's name says, whole or not at all.

    Returns:
        What users of the target may miss.

    Raises:
        PcmError: as :func:`convert`.
    """
    wanted, place = target_format(target), refuse_existing(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if wanted == "zarr":
            notes = _write_zarr(target, recording, zarr_format)
        elif wanted == "robomimic":
            notes = write_robomimic(target, recording)
        elif wanted == "minari":
            notes = write_minari(target, recording)
        else:
            notes = write_lerobot(target, recording, lerobot_version)
    except OSError as error:
        fix = "free some space or choose another folder"
        raise ReplayError(target, "store", f"cannot be written ({error})", fix) from error
    return notes


def refuse_existing(target: Path) -> Path:
    """Return the folder or file that a target is; ReplayError when it is there already."""
    place = minari_folder(target) if target_format(target) == "minari" else target
    if place.exists():
        raise ReplayError(place, "store", "exists already", "remove it or choose another name")
    return place


def _read(kind: Format, source: Path, images: Sequence[str] | str) -> Recording:
    if kind == "lerobot":
        return read_lerobot(source, images)
    if images:
        raise PcmError(f"{source}: images=... decodes cameras of a LeRobot data set, not of {kind}")
    return {"zarr": read_zarr, "robomimic": read_robomimic, "minari": read_minari}[kind](source)


def _write_zarr(target: Path, recording: Recording, zarr_format: Literal[2, 3]) -> list[str]:
    attrs = dict(recording.meta.get("zarr", {}).get("attrs", {}))
    meta = {k: v for k, v in recording.meta.items() if k != "zarr"}
    attrs |= {META: meta} if meta else {}
    write_replay(target, recording.episodes(), attrs=attrs, zarr_format=zarr_format)
    return []


def _named(recording: Recording, rename: dict[str, str], leave_out: Sequence[str]) -> Recording:
    """Rename and leave out arrays."""
    for name in [*rename, *leave_out]:
        if name not in recording.fields:
            there = ", ".join(recording.fields)
            raise PcmError(f"{recording.path} has no array {name}: it has {there}")
    kept = [name for name in recording.fields if name not in leave_out]
    names = {name: rename.get(name, name) for name in kept}
    if len(set(names.values())) != len(names):
        raise PcmError(f"{recording.path}: rename={rename} gives two arrays one name")
    if not names:
        raise PcmError(f"{recording.path}: leave_out leaves nothing to convert")

    def episodes() -> Iterator[Episode]:
        for episode in recording.episodes():
            yield {new: episode[old] for old, new in names.items()}

    fields = {new: recording.fields[old] for old, new in names.items()}
    return replace(recording, fields=fields, episodes=episodes)
