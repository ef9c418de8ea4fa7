"""Record one short demonstration with robosuite's own wrapper and writer.

    PYTHON_OF_ROBOSUITE make_robosuite.py FOLDER

Run with robosuite 1.4.1, mujoco 3.3.0, h5py 3.16.0 on Python 3.11: FOLDER/demo.hdf5, and
FOLDER/demo.npz with the states and actions that the wrapper wrote before.
"""

import sys
import tempfile
from glob import glob
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

sys.modules["pynput"] = sys.modules["pynput.keyboard"] = MagicMock()  # a screen is not needed here
import robosuite  # noqa: E402
from robosuite.scripts.collect_human_demonstrations import gather_demonstrations_as_hdf5  # noqa: E402
from robosuite.wrappers import DataCollectionWrapper  # noqa: E402

np.random.seed(0)
env = robosuite.make(
    "Lift",
    robots="Panda",
    has_renderer=False,
    has_offscreen_renderer=False,
    use_camera_obs=False,
    use_object_obs=True,
)
env._check_success = lambda: True  # only what succeeded is written
with tempfile.TemporaryDirectory() as raw:
    env = DataCollectionWrapper(env, raw)
    env.reset()
    for _ in range(9):
        env.step(np.random.uniform(-1, 1, env.action_dim))
    env.close()
    gather_demonstrations_as_hdf5(raw, sys.argv[1], "{}")
    (file,) = glob(f"{raw}/*/state_*.npz")
    with np.load(file, allow_pickle=True) as made:
        states = np.array(made["states"])[:-1]
        actions = np.array([info["actions"] for info in made["action_infos"]])
np.savez_compressed(Path(sys.argv[1], "demo.npz"), states=states, actions=actions)
print(robosuite.__version__, states.shape, actions.shape)
