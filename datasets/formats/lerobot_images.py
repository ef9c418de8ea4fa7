"""Cameras of a LeRobot dataset: frames of videos (``video``), stored pictures (``image``)."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.lerobot_info import Feature, Info
from pcm_policy.datasets.video import Video
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

WIDEST = 4096
"""Values of a step that a column of numbers may hold."""
BLOCK = 32
"""Frames that are decoded at a time where memory must not hold an episode."""


def chosen(path: Path, info: Info, images: Sequence[str] | str) -> set[str]:
    """Return the camera entries to decode.

    Raises:
        PcmError: there is no such entry, or it is one of depths.
    """
    cameras = {name: feature for name, feature in info.features.items() if feature.camera}
    there = [name for name, feature in cameras.items() if not feature.depth]
    if images == "all":
        return set(there)
    for name in [images] if isinstance(images, str) else images:
        if name in cameras and name not in there:
            raise PcmError(f"{path}: {name} is a {cameras[name].dtype} of depths: not decoded here")
        if name not in there:
            has = ", ".join(there) or "no camera"
            raise PcmError(f"{path} has no camera entry {name}: it has {has}")
    return {images} if isinstance(images, str) else set(images)


def step_kind(feature: Feature) -> np.dtype[Any]:
    """Return type and shape of one frame, ``(H, W, C)`` whatever the order in ``info.json``."""
    shape, names = list(feature.shape), feature.names or [""]
    named = isinstance(names, list) and str(names[0]).startswith("channel")
    if named or (shape[0] in (1, 3) and shape[-1] not in (1, 3)):
        shape = [*shape[1:], shape[0]]
    return np.dtype((np.uint8, tuple(shape)))


def pictures(path: Path, column: Any, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """Decode a column of stored pictures, ``(rows, H, W, C)``."""
    found = np.empty((len(column), *kind.shape), np.uint8)
    for row, value in enumerate(column.to_pylist()):
        data = value.get("bytes") if isinstance(value, dict) else None
        if data is None:
            fault = f"has no picture in row {row} of a file"
            fix = "write the dataset with its images embedded"
            raise ReplayError(path, name, fault, fix, name)
        found[row] = _fitting(path, name, _picture(path, name, row, data), kind)
    return found


def _picture(path: Path, name: str, row: int, data: bytes) -> NDArray[Any]:
    """Decode one picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of a picture that is very large
            return np.atleast_3d(imageio.v3.imread(io.BytesIO(data)))
    except Exception as error:  # Pillow and its plugins raise many kinds
        fault = f"row {row} is no picture ({' '.join(str(error).split())})"
        raise ReplayError(path, name, fault, "download it again", name) from error


def is_image(kind: np.dtype[Any]) -> bool:
    """Whether steps of this type are written as pictures: ``(H, W, 1 or 3)``, wide or of bytes."""
    shape = kind.shape
    wide = kind.base == np.uint8 or int(np.prod(shape, dtype=int)) > WIDEST
    return len(shape) == 3 and shape[2] in (1, 3) and wide


def picture_column(path: Path, name: str, frames: NDArray[Any]) -> Any:
    """Encode ``(rows, H, W, C)`` as a column of PNG pictures.

    Raises:
        ReplayError: values that are no whole numbers of 0 to 255.
    """
    pa = require("pyarrow", "LeRobot", "convert")
    with np.errstate(invalid="ignore"):
        whole = frames.astype(np.uint8)
    if not (whole == frames).all():
        found = "is no image of whole numbers from 0 to 255"
        raise ReplayError(path, name, found, "pictures hold no others without loss", name)
    rows = []
    for frame in whole:
        plain = frame[..., 0] if frame.shape[-1] == 1 else frame
        rows.append({"bytes": imageio.v3.imwrite("<bytes>", plain, extension=".png"), "path": None})
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _fitting(path: Path, name: str, frame: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if frame.shape[-3:] != kind.shape or frame.dtype != np.uint8:
        found = f"holds frames of {frame.shape[-3:]} {frame.dtype}"
        fix = f"info.json says {kind.shape}: correct it there"
        raise ReplayError(path, name, found, fix, name)
    return frame


@dataclass(frozen=True)
class _Clip:
    """Where an episode's frames are: a file, and the time in it at which they begin."""

    file: Path
    start: float


class Camera:
    """The videos of one entry, read episode after episode; one file is open at a time."""

    def __init__(self, path: Path, info: Info, name: str, count: int) -> None:
        self.path, self.name, self.fps = path, name, info.fps
        self.kind = step_kind(info.features[name])
        self.video: Video | None = None
        if info.version == "3":
            self.clips = _joined(path, name, count)
        else:
            size = info.total("chunks_size") or 1000
            folder = path / "videos"
            self.clips = [
                _Clip(folder / f"chunk-{i // size:03d}" / name / f"episode_{i:06d}.mp4", 0.0)
                for i in range(count)
            ]

    def read(self, number: int, steps: int) -> NDArray[np.uint8]:
        """Return the frames of an episode, ``(steps, H, W, 3)``; episodes come in order."""
        return self._frames(number, 0, steps)

    def blocks(self, number: int, steps: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames of an episode a few at a time; episodes come in order."""
        for first in range(0, steps, BLOCK):
            yield self._frames(number, first, min(BLOCK, steps - first))

    def _frames(self, number: int, first: int, steps: int) -> NDArray[np.uint8]:
        clip = self.clips[number]
        try:
            if self.video is None or self.video.path != clip.file:
                self.close()
                self.video = Video(clip.file, self.fps)
            frames = self.video.read(clip.start + first / self.fps, steps)
        except ReplayError as fault:
            found = fault.path, fault.where, fault.found, fault.fix
            raise ReplayError(*found, self.name) from fault
        return _fitting(self.path, self.name, frames, self.kind)

    def close(self) -> None:
        """Close the open file."""
        if self.video is not None:
            self.video.__exit__(None, None, None)
        self.video = None


def _joined(path: Path, name: str, count: int) -> list[_Clip]:
    """Read v3.0's index of the videos that several episodes share."""
    pq = require("pyarrow.parquet", "a LeRobot dataset", "convert")
    keys = [f"videos/{name}/{k}" for k in ("chunk_index", "file_index", "from_timestamp")]
    clips: dict[int, _Clip] = {}
    for file in sorted((path / "meta/episodes").glob("*/*.parquet")):
        try:
            table = pq.read_table(file, columns=["episode_index", *keys]).to_pydict()
            rows = zip(table["episode_index"], *(table[key] for key in keys), strict=True)
            for episode, chunk, number, start in rows:
                if not (math.isfinite(start) and start >= 0):
                    raise ValueError(f"episode {episode} begins at {start} s")
                place = f"chunk-{int(chunk):03d}/file-{int(number):03d}.mp4"
                clips[int(episode)] = _Clip(path / "videos" / name / place, float(start))
        except (OSError, KeyError, ValueError, TypeError) as error:
            found = f"does not say where the videos of {name} are ({' '.join(str(error).split())})"
            raise ReplayError(path, file.name, found, "download it again", name) from error
    missing = sorted(set(range(count)) - set(clips))
    if missing:
        found = f"does not say where the video of episode {missing[0]} is"
        raise ReplayError(path, "meta/episodes", found, "download it again", name)
    return [clips[i] for i in range(count)]
