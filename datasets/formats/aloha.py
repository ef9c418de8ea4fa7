"""Episodes as ALOHA and ACT record them: a folder of ``episode_N.hdf5``, or one of these files.

Each holds ``action``, ``observations/qpos``, ``observations/qvel`` and ``observations/images/*``.
Mobile ALOHA compresses pictures as JPEG, each padded to the longest, and hands OpenCV their
channels as they are. OpenCV takes the first one for blue: decoded here, they come in the order in
which they were recorded. The files say no rate: give ``fps=50``, which both projects record at.

Source: github.com/tonyzhaozh/act and github.com/MarkFzp/mobile-aloha, ``record_episodes.py``.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.base import Format, no_images
from pcm_policy.datasets.formats.trajectories import Decode, Trajectory, recording, top_names
from pcm_policy.datasets.recording import Recording
from pcm_policy.datasets.trust import refuse_links_outside

_FILE = re.compile(r"episode_(\d+)\.hdf5")
_MARKS = {"action", "observations"}
STATE = "observation.qpos"


def episode_files(path: Path) -> list[Path]:
    """Return the files of a folder's episodes, by number."""
    numbers = {f: m for f in path.iterdir() if (m := _FILE.fullmatch(f.name)) is not None}
    return sorted(numbers, key=lambda file: int(numbers[file][1]))


class Aloha(Format):
    """ALOHA's and ACT's episodes."""

    name = "aloha"

    def recognises(self, path: Path) -> bool:
        """Say whether a file, or the first of a folder, holds observations and actions."""
        if path.is_dir():
            files = episode_files(path)
            return bool(files) and top_names(files[0]) >= _MARKS
        return top_names(path) >= _MARKS

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe the episodes; their cameras are arrays as any other."""
        no_images(path, images, "ALOHA")
        files = [path]
        if path.is_dir():
            refuse_links_outside(path)
            files = episode_files(path)
        return recording(path, [Trajectory(file) for file in files], _name, "action", {}, _decoder)

    def observed(self, recording: Recording) -> list[str]:
        """Return what ACT observes: the joints and the cameras."""
        cameras = [name for name in recording.fields if name.startswith("observation.images.")]
        return [*([STATE] if STATE in recording.fields else []), *cameras]


def _name(place: str) -> str:
    head, _, rest = place.partition("/")
    return ".".join(["observation", *rest.split("/")]) if head == "observations" else place


def _decoder(place: str, array: Any) -> Decode | None:
    """Return how pictures become frames, where they are compressed."""
    if not place.startswith("observations/images/") or array.ndim != 2 or array.dtype != np.uint8:
        return None

    return lambda rows: np.stack([_picture(row) for row in rows])


def _picture(row: NDArray[Any]) -> NDArray[Any]:
    try:
        frame = imageio.v3.imread(io.BytesIO(row.tobytes()), plugin="pillow")
    except Exception as error:  # Pillow and its plugins raise many kinds
        raise ValueError(
            f"holds a row that is no picture: {' '.join(str(error).split())}"
        ) from error
    return np.ascontiguousarray(np.asarray(frame)[..., ::-1])


FORMAT = Aloha()
