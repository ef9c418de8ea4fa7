"""D4RL's HDF5 files: flat arrays of all steps; ``terminals`` and ``timeouts`` end episodes.

Source: github.com/Farama-Foundation/D4RL, the wiki's page on the format of data sets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format, no_images
from pcm_policy.datasets.formats.trajectories import Trajectory, recording, top_names
from pcm_policy.datasets.hdf5 import open_file
from pcm_policy.datasets.recording import Recording

_MARKS = {"observations", "actions", "rewards"}
ENDS = ("terminals", "timeouts")
NAMES = {"observations": "observation", "next_observations": "next_observation"}
NAMES |= {"actions": "action", "rewards": "reward", "terminals": "terminated"}
NAMES |= {"timeouts": "truncated", "infos": "info"}


class D4RL(Format):
    """D4RL's data sets."""

    name = "d4rl"

    def recognises(self, path: Path) -> bool:
        """Say whether a file holds observations, actions and rewards at its top."""
        return top_names(path) >= _MARKS

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe the episodes."""
        no_images(path, images, "D4RL")
        stops = _stops(path)
        episodes = [
            Trajectory(path, "", slice(start, stop))
            for start, stop in zip([0, *stops[:-1]], stops, strict=True)
        ]
        return recording(path, episodes, _name, "actions", {})


def _name(place: str) -> str:
    head, *rest = place.split("/")
    return ".".join([NAMES.get(head, head), *rest])


def _stops(path: Path) -> list[int]:
    """Return the row after the last of every episode."""
    with open_file(path) as file:
        actions: Any = file["actions"]
        count = int(actions.shape[0]) if actions.shape else 0
        flags = {name: np.asarray(file[name]) for name in ENDS if name in file}
    return stops_of(path, flags, count)


def stops_of(path: Path, flags: Mapping[str, NDArray[Any]], count: int | None = None) -> list[int]:
    """Return the row after the last of every episode; steps after the last end are an episode.

    Args:
        path: of the file, for messages.
        flags: by name, true at the last step of an episode; what one of them ends is ended.
        count: the number of steps; None: of the first flags.

    Raises:
        ReplayError: there are no steps, or flags of other lengths.
    """
    if count is None:
        count = next(iter(flags.values())).size
    if not count:
        raise ReplayError(path, "actions", "holds no steps", "download it again")
    over = np.zeros(count, bool)
    for name, values in flags.items():
        if values.size != count:
            found = f"has {values.size} rows where there are {count} steps"
            raise ReplayError(path, name, found, "download it again")
        over |= values.reshape(-1).astype(bool)
    over[-1] = True
    stops: list[int] = (np.flatnonzero(over) + 1).tolist()
    return stops


FORMAT = D4RL()
