"""The five robosuite tasks of robomimic's benchmark, as its data sets describe them (``env_args``).

Mandlekar et al. 2021. A data set of a user's own brings its own description.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcm_policy.datasets.hdf5 import open_file
from pcm_policy.envs.robosuite_controllers import EnvArgs, Series, described_series
from pcm_policy.errors import PcmError

_CONTROLLER: Mapping[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}
_ARM: Mapping[Series, Mapping[str, Any]] = {
    "1.4": {"damping": 1, "damping_limits": [0, 10], "control_delta": True},
    "1.5": {
        "damping_ratio": 1,
        "damping_ratio_limits": [0, 10],
        "input_type": "delta",
        "input_ref_frame": "world",
        "gripper": {"type": "GRIP"},
    },
}
_VERSION: Mapping[Series, str] = {"1.4": "1.4.1", "1.5": "1.5.1"}


@dataclass(frozen=True)
class RobosuiteTask:
    """A task and what robomimic's benchmark says of it.

    Attributes:
        env_name: robosuite's name.
        max_steps: steps of an episode.
        arms: number of Panda arms.
        soft_reset: whether resetting the data alone gives the episode that rebuilding the model
            gives. Not so where parts of the model are drawn: Lift's cube, Transport's hammer.
    """

    env_name: str
    max_steps: int
    arms: int = 1
    soft_reset: bool = True

    def env_args(self, series: Series) -> EnvArgs:
        """Return a fresh description of the environment, as in robomimic's data sets.

        Args:
            series: of robosuite. For 1.5 the frame is the world and the physics step the whole one,
                as in 1.4 (1.5 would take the robot's frame and a shortened step by itself).
        """
        layout: dict[str, Any] = {}
        if self.arms == 2:
            layout["env_configuration"] = {"1.4": "single-arm-opposed", "1.5": "opposed"}[series]
        controller: dict[str, Any] = {**_CONTROLLER, **deepcopy(dict(_ARM[series]))}
        if series == "1.5":
            controller = {"type": "BASIC", "body_parts": {"right": controller}}
            layout["lite_physics"] = False
        return {
            "env_name": self.env_name,
            "env_version": _VERSION[series],
            "type": 1,
            "env_kwargs": {
                "control_freq": 20,
                "controller_configs": controller,
                "robots": ["Panda"] * self.arms,
                "reward_shaping": False,
                "camera_depths": False,
                "camera_heights": 84,
                "camera_widths": 84,
                **layout,
            },
        }


TASKS: Mapping[str, RobosuiteTask] = {
    "Lift": RobosuiteTask("Lift", 400, soft_reset=False),
    "Can": RobosuiteTask("PickPlaceCan", 400),
    "Square": RobosuiteTask("NutAssemblySquare", 400),
    "ToolHang": RobosuiteTask("ToolHang", 700),
    "Transport": RobosuiteTask("TwoArmTransport", 700, arms=2, soft_reset=False),
}


def find_task(name: str) -> RobosuiteTask:
    """Look a task up by the benchmark's name.

    Raises:
        PcmError: there is none of that name.
    """
    if name not in TASKS:
        raise PcmError(f"no robosuite task {name!r}: use {', '.join(TASKS)}, or dataset=FILE.hdf5")
    return TASKS[name]


def read_env_args(path: str | Path) -> EnvArgs:
    """Read the description of the environment out of a robomimic HDF5 file.

    Raises:
        PcmError: no such file, or no description of a robosuite environment in it.
    """
    with open_file(Path(path)) as file:
        data = file.get("data")
        text = data.attrs.get("env_args") if data is not None else None
    if text is None:
        raise PcmError(f"{path}: data.attrs[env_args] is missing: name a task instead of the file")
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise PcmError(f"{path}: data.attrs[env_args] is no JSON ({error})") from error
    return check_env_args(found, str(path))


def check_env_args(found: Any, where: str) -> EnvArgs:
    """Return a description if it is one of a robosuite environment.

    Raises:
        PcmError: it is not; the message begins with ``where``.
    """
    if not isinstance(found, dict) or not isinstance(found.get("env_name"), str):
        raise PcmError(f"{where}: env_args names no environment: expected env_name, env_kwargs")
    kind = found.get("type", found.get("env_type", 1))
    if kind != 1 or not isinstance(found.get("env_kwargs"), dict):
        raise PcmError(f"{where}: env_args is of type {kind}: only robosuite (type 1) is simulated")
    described_series(found, where)
    return found
