"""Write a small dataset with LeRobot's own writer; runs in LeRobot's environment.

    python make_lerobot_dataset.py FOLDER EPISODES [camera]

A point in Push-T's square moves towards the place that the action names.
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

STEPS = 40


def main(folder: str, episodes: int, camera: bool) -> None:
    names = {"observation.state": 2, "observation.environment_state": 16, "action": 2}
    features = {k: {"dtype": "float32", "shape": (n,), "names": None} for k, n in names.items()}
    if camera:
        features["observation.image"] = {
            "dtype": "image",
            "shape": (16, 16, 3),
            "names": ["height", "width", "channels"],
        }
    data = LeRobotDataset.create("me/points", 10, features, root=folder, use_videos=False)
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        place, goal = rng.uniform(50, 460, (2, 2))
        around = goal + rng.uniform(-40, 40, (8, 2))
        for _ in range(STEPS):
            action = place + 0.2 * (goal - place)
            frame = {
                "observation.state": place.astype(np.float32),
                "observation.environment_state": around.astype(np.float32).ravel(),
                "action": action.astype(np.float32),
                "task": "go there",
            }
            if camera:
                frame["observation.image"] = rng.integers(0, 256, (16, 16, 3), np.uint8)
            data.add_frame(frame)
            place = action
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), "camera" in sys.argv)
