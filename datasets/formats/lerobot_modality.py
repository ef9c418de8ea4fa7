"""``meta/modality.json`` of GR00T and RoboCasa: names for columns of a LeRobot folder's arrays.

It says which columns of ``observation.state`` and ``action`` are which part of the robot, and what
the cameras are called. Source: Isaac-GR00T, ``getting_started/data_preparation.md``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcm_policy.datasets.formats.lerobot_info import damaged

PLACE = "meta/modality.json"
_ARRAYS = {"state": "observation.state", "action": "action"}


def read_modality(path: Path) -> dict[str, Any]:
    """Return what the file says, nothing where there is none.

    Raises:
        ReplayError: it is no JSON object.
    """
    file = path / PLACE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, file, error) from error
    return found


def slices(modality: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a name and the field that it stands for, such as ``observation.state[0:7]``.

    What is no such entry is passed over: users see that its name is not listed.
    """
    for group, array in _ARRAYS.items():
        parts = modality.get(group)
        for name, about in parts.items() if isinstance(parts, dict) else ():
            if not isinstance(about, dict):
                continue
            start, end = about.get("start"), about.get("end")
            if type(start) is int and type(end) is int:
                yield f"{group}.{name}", f"{about.get('original_key') or array}[{start}:{end}]"
    cameras = modality.get("video")
    for name, about in cameras.items() if isinstance(cameras, dict) else ():
        if isinstance(about, dict):
            yield f"video.{name}", str(about.get("original_key") or f"observation.images.{name}")
