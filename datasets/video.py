"""Frames of videos, exact to the step that they belong to. Needs PyAV."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.unknown import LFS, what_it_is
from pcm_policy.optional import require

_CLOSE = 0.25  # of a period: a frame this near to a step's time belongs to that step alone


class Video:
    """One file, decoded from its beginning on; closes with ``with``.

    Args:
        path: the file.
        fps: rate of the steps.

    Raises:
        PcmError: PyAV is not installed; or a ReplayError: the file is missing or no video.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._av = require("av", "frames of a video", "video")
        # A frame that is left to itself makes one of its own, threads and all
        # (findings/pyav_makes_a_converter_for_every_frame.sh).
        self._converter = self._av.video.reformatter.VideoReformatter()
        self.path, self.fps = path, fps
        if not path.is_file():
            raise ReplayError(path, "video", "is missing", "download it, or leave images=... out")
        try:
            self._check()
            # a playlist that calls itself .mp4 would open other files: this reader knows none
            self._container = self._av.open(str(path), format="mp4")
            self._frames = self._decoded()
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._fault(f"cannot be opened ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def read(self, start: float, count: int) -> NDArray[np.uint8]:
        """Return the frames of consecutive steps, ``(count, H, W, 3)``, RGB.

        Args:
            start: time in the file of the first one in seconds; never before an earlier call's.
            count: number of steps.

        Raises:
            ReplayError: there is no frame for a step, or the file is damaged.
        """
        found = np.empty((0,), np.uint8)
        step = 0
        while step < count:
            wanted = start + step / self.fps
            try:
                time, frame = next(self._frames)
                late = time - wanted
                if late < -_CLOSE / self.fps:
                    continue  # of the episode before, or more frames than steps
                image = self._converter.reformat(frame, format="rgb24").to_ndarray()
            except (self._av.error.FFmpegError, StopIteration, MemoryError) as error:
                reason = "ends" if isinstance(error, StopIteration) else f"is damaged ({error})"
                raise self._fault(f"{reason} before the frame at {wanted:.3f} s") from error
            if late > _CLOSE / self.fps:
                raise self._fault(f"has no frame at {wanted:.3f} s, the next is at {time:.3f} s")
            if step == 0:
                found = np.empty((count, *image.shape), np.uint8)
            found[step] = image
            step += 1
        return found

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        if not self._container.streams.video:
            raise self._fault("holds no video")
        for frame in self._container.decode(video=0):  # in the order in which they are shown
            if frame.time is None:
                raise self._fault("holds a frame without a time")
            yield float(frame.time), frame

    def _check(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(64)
        named = what_it_is(self.path) if head.startswith(LFS) else None
        if named is not None:
            raise ReplayError(self.path, "video", *named)

    def _fault(self, found: str) -> ReplayError:
        return ReplayError(self.path, "video", found, "download it again")
