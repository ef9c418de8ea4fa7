"""D4RL's HDF5 files: flat arrays of all steps; ``terminals`` and ``timeouts`` end episodes.

Source: github.com/Farama-Foundation/D4RL, the wiki's page on the format of data sets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format, no_images
from pcm_policy.datasets.formats.trajectories import Trajectory, recording, top_names
from pcm_policy.datasets.hdf5 import open_file
from pcm_policy.datasets.recording import Recording

_MARKS = {"observations", "actions", "rewards"}
_ENDS = ("terminals", "timeouts")
_NAMES = {"observations": "observation", "next_observations": "next_observation"}
_NAMES |= {"actions": "action", "rewards": "reward", "terminals": "terminated"}
_NAMES |= {"timeouts": "truncated", "infos": "info"}


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
    return ".".join([_NAMES.get(head, head), *rest])


def _stops(path: Path) -> list[int]:
    """Return the row after the last of every episode; steps after the last end are an episode."""
    with open_file(path) as file:
        actions: Any = file["actions"]
        count = int(actions.shape[0]) if actions.shape else 0
        if not count:
            raise ReplayError(path, "actions", "holds no steps", "download it again")
        over = np.zeros(count, bool)
        for name in _ENDS:
            if name in file:
                flags = np.asarray(file[name]).reshape(-1)
                if len(flags) != count:
                    found = f"has {len(flags)} rows where actions have {count}"
                    raise ReplayError(path, name, found, "download it again")
                over |= flags.astype(bool)
    over[-1] = True
    stops: list[int] = (np.flatnonzero(over) + 1).tolist()
    return stops


FORMAT = D4RL()
