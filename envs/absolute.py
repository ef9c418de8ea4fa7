"""Absolute actions for a robomimic file that has delta actions, as Diffusion Policy trains on."""

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.robomimic import demonstrations, open_file
from pcm_policy.envs.robosuite import Robosuite
from pcm_policy.envs.robosuite_controllers import controls_deltas
from pcm_policy.envs.robosuite_tasks import read_env_args
from pcm_policy.envs.rotations import to_learned
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

NAME = "absolute_actions"


def add_absolute_actions(source: Path, target: Path) -> int:
    """Copy a file and give every demonstration ``absolute_actions``, (steps, 10 * arms) float32.

    Delta actions are those of OSC_POSE; the environment that ``env_args`` describe is set to each
    recorded state and its controllers are asked where they aim. Actions that are absolute already
    (``control_delta`` false) only get another form of rotation.

    Args:
        source: robomimic HDF5.
        target: a new file, which appears whole or not at all.

    Returns:
        The number of demonstrations.

    Raises:
        PcmError: the target exists, robosuite is not installed, another controller; or a
            ReplayError: a damaged file, or a demonstration without states.
    """
    h5py = require("h5py", "robomimic's HDF5", "convert")
    if target.exists():
        raise PcmError(f"{target} exists: choose another path or remove it")
    with open_file(source) as file:
        demos = demonstrations(source, file)
        for demo in demos:
            for name in ("actions", "states"):
                if name not in file["data"][demo]:
                    fix = "absolute actions need the recorded states and actions"
                    raise ReplayError(source, f"{demo}: {name}", "missing", fix)
    deltas = controls_deltas(read_env_args(source), str(source))
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, scratch)
        with h5py.File(scratch, "r+") as file:
            if deltas:
                with closing(Robosuite(dataset=source, control="delta")) as env:
                    for name in tqdm(demos, desc="absolute actions", unit="ep", disable=None):
                        demo = file["data"][name]
                        model = demo.attrs.get("model_file")
                        found = env.absolute_actions(demo["states"][:], demo["actions"][:], model)
                        _put(demo, found)
            else:
                for name in demos:
                    _put(file["data"][name], to_learned(file["data"][name]["actions"][:]))
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return len(demos)


def _put(demo: Any, values: NDArray[Any]) -> None:
    if NAME in demo:
        del demo[NAME]
    demo.create_dataset(NAME, data=values.astype(np.float32))
