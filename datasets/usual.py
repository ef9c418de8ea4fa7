"""What a policy observes and does where nobody says it: what the demonstrations call so."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.gathered import MAX_COLUMNS
from pcm_policy.errors import PcmError

ACTIONS = ("action", "actions")


@dataclass(frozen=True)
class Usual:
    """Entries of demonstrations that a policy takes.

    Attributes:
        obs_fields: arrays of numbers that make an observation.
        action_field: array of the actions.
        cameras: height and width of every camera's images.
    """

    obs_fields: tuple[str, ...]
    action_field: str
    cameras: dict[str, tuple[int, int]]

    @property
    def said(self) -> str:
        """The same as settings of the command line."""
        words = [f"task.obs_fields=[{','.join(self.obs_fields)}]"]
        words += [f"task.action_field={self.action_field}"]
        if self.cameras:
            sizes = ",".join(f"{name}:[{h},{w}]" for name, (h, w) in self.cameras.items())
            words.append(f"task.cameras={{{sizes}}}")
        return " ".join(f'"{word}"' for word in words)


def usual_fields(path: str | Path) -> Usual:
    """Find state, cameras and actions of demonstrations of any format, by their names.

    Raises:
        PcmError: nothing is called an observation, or an action; the message says what there is.
    """
    known = source_format(Path(path))
    recording = known.whole(Path(path))
    observed = {name: recording.fields[name] for name in known.observed(recording)}
    cameras = {
        name: (step.shape[0], step.shape[1])
        for name, step in observed.items()
        if len(step.shape) == 3 and step.shape[2] == 3
    }
    narrow = [name for name, step in observed.items() if np.prod(step.shape) <= MAX_COLUMNS]
    numbers = tuple(name for name in narrow if name not in cameras)
    action = next((name for name in ACTIONS if name in recording.fields), None)
    if action is None or not (numbers or cameras):
        lacking = "an action" if action is None else "an observation"
        raise PcmError(
            f"{path}: nothing is called {lacking}; the arrays are {', '.join(recording.fields)}: "
            'give a task, such as task=pusht, or say "task.obs_fields=[ARRAY,ARRAY]" and '
            "task.action_field=ARRAY"
        )
    return Usual(numbers, action, cameras)
