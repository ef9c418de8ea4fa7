"""Scripted experts: what demonstrates a task where nobody has."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError


class Expert(Protocol):
    """Acts in one environment, one step at a time."""

    def reset(self, generator: np.random.Generator) -> None:
        """Draw this episode's speed, noise and offsets."""

    def act(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the environment's action for an observation."""

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the record of how demonstrations were made."""


def make_expert(task: str) -> Expert:
    """Make the expert of a task.

    Args:
        task: name of a task, such as ``metaworld/pick-place``.

    Raises:
        PcmError: there is none, or its simulator is not installed.
    """
    if task.startswith("metaworld/"):
        from pcm_policy.envs.metaworld import Demonstrator

        return Demonstrator(task.removeprefix("metaworld/"))
    if task == "aloha_transfer_cube":
        from pcm_policy.envs.experts.aloha import TransferCube

        return TransferCube()
    from pcm_policy.envs.experts import robosuite
    from pcm_policy.envs.simulators import installed_series

    known: dict[str, type[robosuite.Grasping]] = {
        "lift": robosuite.Lift,
        "can": robosuite.Can,
        "square": robosuite.Square,
    }
    if (low_dim := task.removesuffix("_image")) in known:  # experts see the poses all the same
        return known[low_dim](series=installed_series())
    raise PcmError(
        f"no expert knows task {task!r}: use {', '.join(known)}, aloha_transfer_cube or "
        "metaworld/NAME, or roll a policy out with policy=..."
    )
