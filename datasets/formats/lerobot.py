"""LeRobot dataset folders, v3.0 and v2.x: columns of their parquet files, frames of their videos.

Cameras are decoded only when asked for; the report names those that were not. Needs pyarrow, and
PyAV for videos.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format, WriteOptions, no_filter_key
from pcm_policy.datasets.formats.lerobot_columns import leaf_type, read_episodes
from pcm_policy.datasets.formats.lerobot_images import Camera, chosen, step_kind
from pcm_policy.datasets.formats.lerobot_index import OWN, Index, read_index
from pcm_policy.datasets.formats.lerobot_info import (
    Feature,
    Info,
    data_files,
    read_info,
    read_tasks,
)
from pcm_policy.datasets.formats.lerobot_modality import read_modality, slices
from pcm_policy.datasets.formats.lerobot_writing import write_lerobot
from pcm_policy.datasets.formats.loading import FrameSource, check_there, frame_source
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, section
from pcm_policy.datasets.trust import refuse_links_outside

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool")  # Arrow's names


def read_lerobot(path: Path, images: Sequence[str] | str = ()) -> Recording:
    """Describe a folder.

    Args:
        path: the folder.
        images: camera entries to decode, or ``all``.

    Raises:
        PcmError: an optional package is not installed, or there is no such camera; or a
            ReplayError: a file is missing or damaged, or the folder is not complete.
    """
    refuse_links_outside(path)
    info = read_info(path)
    files, strays = data_files(path, info)
    index = read_index(path, files, info)
    meta = parse_meta(path, info.text.get(META))
    found = _Columns(path, info, index, chosen(path, info, images), meta)
    if strays:
        first = strays[0].relative_to(path)
        found.lost[str(first)] = f"(and {len(strays) - 1} more files that info.json does not count)"
    for name in ("shapes", "image_types"):
        meta.pop(name, None)
    fields = found.fields
    videos = [name for name in fields if info.features[name].dtype == "video"]
    lengths = index.lengths

    def episodes(names: Collection[str]) -> Iterator[Episode]:
        columns = {name: fields[name] for name in names if name not in videos}
        seen = [name for name in names if name in videos]
        cameras = {name: Camera(path, info, name, len(lengths)) for name in seen}
        rows = read_episodes(path, index, columns) if columns else ({} for _ in lengths)
        try:
            for number, episode in enumerate(rows):
                frames = {k: c.read(number, lengths[number]) for k, c in cameras.items()}
                yield episode | frames
        finally:
            for camera in cameras.values():
                camera.close()

    known = {"fps": info.text["fps"], "lerobot": _section(path, info, fields)}
    return Recording(path, fields, len(lengths), episodes, meta | known, found.lost, found.faults)


def _section(path: Path, info: Info, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only LeRobot's folders have a place for."""
    names = {k: v.names for k, v in info.features.items() if k in fields and not v.camera}
    found = {
        "tasks": read_tasks(path),
        "features": {k: v for k, v in names.items() if v is not None},
        "robot_type": info.text.get("robot_type"),
        "own": [name for name in OWN if name in fields],
        "modality": read_modality(path),
    }
    return {k: v for k, v in found.items() if v}


class _Columns:
    """What of the features becomes an array, what cannot, and what is damaged."""

    def __init__(
        self, path: Path, info: Info, index: Index, decoded: set[str], meta: Mapping[str, Any]
    ) -> None:
        self.path, self.info, self.index, self.decoded = path, info, index, decoded
        self.shapes, self.types = section(meta, "shapes"), section(meta, "image_types")
        self.fields: dict[str, np.dtype[Any]] = {}
        self.lost: dict[str, str] = {}
        self.faults: dict[str, ReplayError] = {}
        skipped = {"frame_index", "episode_index", "index"}
        skipped |= set() if index.own_times else {"timestamp"}
        skipped |= set() if index.own_tasks else {"task_index"}
        for name, feature in info.features.items():
            if name not in skipped:
                self._add(name, feature)
        for name in dict.fromkeys(name for schema in index.schemas for name in schema):
            if name not in info.features and name not in skipped:
                self.lost[name] = "(in the parquet files, not in info.json)"

    def _add(self, name: str, feature: Feature) -> None:
        why = self._no_array(name, feature)
        if why is not None:
            self.lost[name] = why
        elif feature.camera:
            kind = step_kind(feature)
            base = self._image_type(name)
            self.fields[name] = np.dtype((base, kind.shape))
        else:
            whole = name in ("timestamp", "task_index")
            shape = () if whole else self._shape(name, feature)
            self.fields[name] = np.dtype((feature.number, shape))
            self._check_files(name)

    def _no_array(self, name: str, feature: Feature) -> str | None:
        """Say why a feature becomes no array; None if it does."""
        if feature.camera:
            if feature.depth:
                return f"(a {feature.dtype} of depths)"
            if name not in self.decoded:
                return f"({feature.dtype}): images=[{name}] decodes it"
        elif feature.number is None:
            return f"({feature.dtype})"
        if feature.dtype == "video":
            return None
        types = [schema[name] for schema in self.index.schemas if name in schema]
        if not types:
            return "(in info.json, in no parquet file)"
        leaf = str(leaf_type(types[0])[0])
        if not feature.camera and not leaf.startswith(_NUMBERS):
            return f"({feature.dtype} in info.json, {leaf.partition('<')[0]} in the files)"
        return None

    def _shape(self, name: str, feature: Feature) -> tuple[int, ...]:
        """Return the shape of a step, the one that was flattened when it was written from here."""
        shape: Any = self.shapes.get(name)
        whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
        if whole and math.prod(shape) == math.prod(feature.shape):
            return tuple(shape)
        return feature.shape

    def _image_type(self, name: str) -> Any:
        """Return the type that an image had when it was written from here, else bytes."""
        kind = Feature(str(self.types.get(name, "uint8")), ()).number
        return np.uint8 if kind is None else kind

    def _check_files(self, name: str) -> None:
        for file, schema in zip(self.index.files, self.index.schemas, strict=True):
            if name not in schema:
                where, found = str(file.relative_to(self.path)), f"lacks the column {name}"
                fix = "download it again"
                self.faults[name] = ReplayError(self.path, where, found, fix, name)
                self.fields.pop(name)
                return


class LeRobot(Format):
    """LeRobot dataset folders."""

    name = "lerobot"

    def recognises(self, path: Path) -> bool:
        """Say whether a folder has ``meta/info.json``."""
        return (path / "meta/info.json").is_file()

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe a folder; cameras that are not asked for are named and left out."""
        return read_lerobot(path, images)

    def camera(self, path: Path, key: str, filter_key: str | None = None) -> FrameSource:
        """Describe a camera; its videos are decoded a few frames at a time."""
        no_filter_key(path, filter_key)
        recording, info = read_lerobot(path, "all"), read_info(path)
        check_there(recording, key)
        if info.features[key].dtype != "video":
            return frame_source(recording, key)
        lengths = read_index(path, data_files(path, info)[0], info).lengths

        def blocks() -> Iterator[tuple[str, Any]]:
            camera = Camera(path, info, key, len(lengths))
            try:
                for number, steps in enumerate(lengths):
                    for block in camera.blocks(number, steps):
                        yield f"episode {number}: {key}", block
            finally:
                camera.close()

        return FrameSource(key, recording.fields[key], sum(lengths), blocks)

    def whole(self, path: Path) -> Recording:
        """Describe a folder with its cameras, of which nothing is decoded yet."""
        return read_lerobot(path, "all")

    def observed(self, recording: Recording) -> list[str]:
        """Return what LeRobot's own policies observe: the state, the environment's, the cameras."""
        usual = [name for name in (STATE, ENVIRONMENT) if name in recording.fields]
        cameras = [name for name, step in recording.fields.items() if len(step.shape) == 3]
        return [*usual, *(name for name in cameras if name.startswith("observation."))]

    def describe(self, path: Path) -> list[str]:
        """Return what GR00T and RoboCasa call columns of the arrays."""
        return [f"{name}: {place}" for name, place in slices(read_modality(path))]

    def accepts(self, target: Path) -> bool:
        """Say whether a target is a path without suffix."""
        return target.suffix == "" and ":" not in str(target)

    def write(self, target: Path, recording: Recording, options: WriteOptions) -> list[str]:
        """Write a folder; return notes."""
        return write_lerobot(target, recording, options.lerobot_version, options.lerobot_video)


FORMAT = LeRobot()
