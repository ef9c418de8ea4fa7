"""Cameras of a LeRobot folder as videos, encoded as LeRobot encodes its own. Needs PyAV.

A video changes pictures a little: pictures inside the parquet files do not.
Source: LeRobot 0.6.1, ``configs/video.py`` (codec, pixel format, key frames, quality).
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.optional import require

Codec = Literal["av1", "h264"]
PIXELS = "yuv420p"
_QUALITY = {"g": "2", "crf": "30"}
_ENCODERS = {
    "av1": ("libsvtav1", _QUALITY | {"preset": "12"}),
    "h264": ("libx264", _QUALITY),
}
_FILE_BYTES = 200 << 20


def is_film(kind: np.dtype[Any]) -> bool:
    """Whether a camera's steps can be frames of a video: bytes, ``(H, W, 3)``, of even sizes."""
    shape = kind.shape
    whole = len(shape) == 3 and shape[2] == 3 and kind.base == np.uint8
    return whole and shape[0] % 2 == 0 and shape[1] % 2 == 0


def feature(kind: np.dtype[Any], codec: Codec, fps: float) -> dict[str, Any]:
    """Return what ``info.json`` says of a video."""
    height, width, channels = kind.shape
    about = {"height": height, "width": width, "codec": codec, "pix_fmt": PIXELS, "fps": fps}
    about |= {"channels": channels, "is_depth_map": False}
    info = {f"video.{k}": v for k, v in about.items()} | {"has_audio": False}
    axes = ["height", "width", "channels"]
    return {"dtype": "video", "shape": list(kind.shape), "names": axes, "info": info}


@contextmanager
def _usual_scheduling() -> Iterator[None]:
    """Take back the realtime priority that SVT-AV1 gives the thread that opens it, run as root.

    All that the thread and its children do later would stop every other process of the machine
    (``findings/svt_av1_makes_its_caller_realtime.sh``).
    """
    if not hasattr(os, "sched_getscheduler"):  # Linux alone has it
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before[0]:
            os.sched_setscheduler(0, *before)


class _Film:
    """One file that is being encoded."""

    def __init__(self, path: Path, kind: np.dtype[Any], codec: Codec, fps: float) -> None:
        av = require("av", "videos", "video")
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
        path.parent.mkdir(parents=True, exist_ok=True)
        name, options = _ENCODERS[codec]
        self.path, self.frames = path, 0
        self._frame = av.VideoFrame.from_ndarray
        self._container = av.open(str(path), "w")
        try:
            rate = Fraction(fps).limit_denominator(1001)
            self._stream = self._container.add_stream(name, rate, options=dict(options))
        except (ValueError, av.error.FFmpegError) as error:
            self._container.close()
            found, fix = f"the encoder {name} is not in this PyAV ({error})", "pip install -U av"
            raise ReplayError(path, "video", found, fix) from error
        self._stream.height, self._stream.width = kind.shape[:2]
        self._stream.pix_fmt = PIXELS

    @property
    def size(self) -> int:
        """Bytes that are written so far; an encoder keeps the last frames."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, frames: NDArray[Any]) -> None:
        for image in frames:
            self._put(self._frame(np.ascontiguousarray(image), format="rgb24"))
        self.frames += len(frames)

    def close(self) -> None:
        try:
            self._put(None)
        finally:
            self._container.close()

    def _put(self, frame: Any) -> None:
        with _usual_scheduling():  # the first call opens the encoder
            for packet in self._stream.encode(frame):
                self._container.mux(packet)


class Films:
    """The videos of all cameras of a folder.

    Args:
        root: the folder.
        kinds: type and shape of a step of every camera.
        codec: how frames are encoded.
        fps: their rate.
        joined: whether episodes share files of about 200 MB (v3.0), or each has its own (v2.1).
    """

    def __init__(
        self,
        root: Path,
        kinds: Mapping[str, np.dtype[Any]],
        codec: Codec,
        fps: float,
        *,
        joined: bool,
    ) -> None:
        self.root, self.kinds, self.codec, self.fps, self.joined = root, kinds, codec, fps, joined
        self._open: dict[str, _Film] = {}
        self._file = dict.fromkeys(kinds, 0)

    def __contains__(self, name: str) -> bool:
        """Whether a camera is written as a video."""
        return name in self.kinds

    def add(self, number: int, cameras: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Encode an episode; return where it is, for LeRobot's index of episodes."""
        row: dict[str, Any] = {}
        for name, frames in cameras.items():
            film = self._film(name, number)
            start = film.frames
            film.write(frames)
            row |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": self._file[name]}
            row[f"videos/{name}/from_timestamp"] = start / self.fps
            row[f"videos/{name}/to_timestamp"] = film.frames / self.fps
        if not self.joined:
            self.close()
        return row

    def close(self, names: Collection[str] | None = None) -> None:
        """Finish the files that are open."""
        for name in list(self._open if names is None else names):
            self._open.pop(name).close()

    def info(self, episodes: int) -> dict[str, Any]:
        """Return what ``info.json`` says of the files of so many episodes."""
        if not self.kinds:
            return {"video_path": None} | ({} if self.joined else {"total_videos": 0})
        if self.joined:
            place = "{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            return {"video_path": f"videos/{place}"}
        place = "chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        return {"video_path": f"videos/{place}", "total_videos": episodes * len(self.kinds)}

    def _film(self, name: str, number: int) -> _Film:
        open_film = self._open.get(name)
        if open_film is not None and open_film.size > _FILE_BYTES:
            self.close([name])
            self._file[name] += 1
        if name not in self._open:
            place = f"{name}/chunk-000/file-{self._file[name]:03d}.mp4"
            if not self.joined:
                place = f"chunk-{number // 1000:03d}/{name}/episode_{number:06d}.mp4"
            path = self.root / "videos" / place
            self._open[name] = _Film(path, self.kinds[name], self.codec, self.fps)
        return self._open[name]
