"""Trajectories of ManiSkill 3: ``traj_N`` in one HDF5 file, and a JSON file of its name beside it.

Each has ``actions``, ``terminated``, ``truncated``, ``success``, ``env_states/...`` and ``obs``, an
array or a tree of them with one row more than there are actions.

Source: the user guide of ManiSkill 3.0.1, "Demonstrations".
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format, no_images
from pcm_policy.datasets.formats.trajectories import Trajectory, recording, top_names
from pcm_policy.datasets.recording import Recording

_GROUP = re.compile(r"traj_(\d+)")


class ManiSkill(Format):
    """ManiSkill's trajectories."""

    name = "maniskill"

    def recognises(self, path: Path) -> bool:
        """Say whether a file holds ``traj_N``."""
        return any(_GROUP.fullmatch(name) for name in top_names(path))

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe the trajectories; their cameras are arrays as any other."""
        no_images(path, images, "ManiSkill")
        groups = [name for name in top_names(path) if _GROUP.fullmatch(name)]
        groups.sort(key=lambda name: int(name.removeprefix("traj_")))
        about = _about(path.with_suffix(".json"))
        rate = _rate(about)
        meta = ({"fps": rate} if rate else {}) | ({"maniskill": about} if about else {})
        return recording(path, [Trajectory(path, name) for name in groups], _name, "actions", meta)


def _name(place: str) -> str:
    head, *rest = place.split("/")
    return ".".join([{"obs": "observation", "actions": "action"}.get(head, head), *rest])


def _about(path: Path) -> dict[str, Any]:
    """Return what is written beside the file about its environment and episodes."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ReplayError(
            path, "file", f"is no JSON ({error})", "download it again, or remove it"
        ) from error
    if not isinstance(found, dict):
        raise ReplayError(path, "file", "is no JSON object", "download it again, or remove it")
    return found


def _rate(about: dict[str, Any]) -> float | None:
    """Return the rate of control where the environment's arguments say one."""
    try:
        rate = float(about["env_info"]["env_kwargs"]["sim_config"]["control_freq"])
    except (KeyError, ValueError, TypeError):
        return None
    return rate if 0 < rate < float("inf") else None


FORMAT = ManiSkill()
