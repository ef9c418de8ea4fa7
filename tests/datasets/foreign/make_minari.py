"""Write a small Minari data set with Minari's own collector, and what its own reader reads from it.

    MINARI_DATASETS_PATH=FOLDER PYTHON_OF_MINARI make_minari.py

Run with minari[create,hdf5] 0.5.4 on Python 3.11. FOLDER/pcm/goal-v0 is the data set; goal.npz
beside it holds the arrays of ``MinariDataset.iterate_episodes``, as ``EPISODE/PLACE``. Two episodes
of 5 steps that succeed in their last one; a dictionary with a camera, infos, seeds.
"""

import os
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np


class Goal(gym.Env):
    """Counts to five."""

    observation_space = gym.spaces.Dict(
        {
            "place": gym.spaces.Box(-9, 9, (2,)),
            "camera": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "pair": gym.spaces.Tuple((gym.spaces.Box(0, 9, (1,)), gym.spaces.Discrete(9))),
        }
    )
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple:
        """Begin."""
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {"success": False, "left": 5}

    def seen(self) -> dict:
        """Return the observation."""
        return {
            "place": np.array([self.t, self.np_random.random()], np.float32),
            "camera": np.full((8, 8, 3), 40 * self.t, np.uint8),
            "pair": (np.array([self.t], np.float32), self.t),
        }

    def step(self, action: np.ndarray) -> tuple:
        """Count."""
        self.t += 1
        info = {"success": self.t == 5, "left": 5 - self.t}
        return self.seen(), float(self.t), self.t == 5, False, info


env = minari.DataCollector(Goal(), record_infos=True)
env.action_space.seed(0)
for seed in range(2):
    env.reset(seed=seed)
    for _ in range(5):
        env.step(env.action_space.sample())
made = env.create_dataset("pcm/goal-v0")
found = {}


def put(place: str, value: object) -> None:
    """Keep the arrays of a tree."""
    if isinstance(value, dict):
        for key, part in value.items():
            put(f"{place}/{key}", part)
    elif isinstance(value, tuple):
        put(place, dict(enumerate(value)))
    else:
        found[place] = np.asarray(value)


for episode in made.iterate_episodes():
    for key in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
        put(f"{episode.id}/{key}", getattr(episode, key))
np.savez_compressed(Path(os.environ["MINARI_DATASETS_PATH"], "goal.npz"), **found)
print(minari.__version__, {k: v.shape for k, v in found.items() if k.startswith("0/")})
