"""Write a small data set with LeRobot's own writer, and what its own reader reads from it.

    PYTHON_OF_LEROBOT make_lerobot.py FOLDER

Run with lerobot 0.4.4 (v3.0; datasets 4.1.1) and with lerobot 0.3.3 (v2.1; datasets 3.6.0), pyarrow
21.0.0, numpy 2.2.6, Python 3.11. The data set is in FOLDER/VERSION; FOLDER/VERSION.npz holds the
columns as LeRobotDataset gives them back (numbers in float32, whatever they are stored in), and the
film as it was before it was encoded. Two episodes of 7 and 5 steps, two tasks, a text, a flag, a
picture and a video.
"""

import shutil
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

FPS = 10
LENGTHS = (7, 5)
AXES = ["height", "width", "channel"]
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "observation.force": {"dtype": "float64", "shape": (1,), "names": None},
    "observation.images.top": {"dtype": "video", "shape": (64, 96, 3), "names": AXES},
    "observation.images.wrist": {"dtype": "image", "shape": (6, 8, 3), "names": AXES},
    "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    "subtask": {"dtype": "string", "shape": (1,), "names": None},
}  # fmt: skip


def frame(episode: int, step: int, rng: np.random.Generator) -> dict:
    """Return one step: walks, a dot that moves in the film, noise as a picture."""
    film = np.full((64, 96, 3), 40, np.uint8)
    film[20:44, 8 * step : 8 * step + 24] = (220, 60 + 60 * episode, 30)
    return {
        "observation.state": rng.normal(size=3).astype(np.float32),
        "observation.force": rng.normal(size=1),
        "observation.images.top": film,
        "observation.images.wrist": rng.integers(0, 256, (6, 8, 3), np.uint8),
        "action": rng.normal(size=2).astype(np.float32),
        "next.reward": np.array([step / 10], np.float32),
        "next.success": np.array([step == LENGTHS[episode] - 1]),
        "subtask": "reach" if step < 3 else "push",
    }


def main() -> None:
    """Write the data set and its values."""
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

    root = Path(sys.argv[1]) / CODEBASE_VERSION
    shutil.rmtree(root, ignore_errors=True)
    made = LeRobotDataset.create("me/small", FPS, FEATURES, root=root, use_videos=True)
    rng = np.random.default_rng(0)
    film = []
    for episode, steps in enumerate(LENGTHS):
        for step in range(steps):
            one = frame(episode, step, rng)
            film.append(one["observation.images.top"])
            if CODEBASE_VERSION == "v2.1":
                made.add_frame(one, task=("push the T", "pull it")[episode])
            else:
                made.add_frame(one | {"task": ("push the T", "pull it")[episode]})
        made.save_episode()
    if hasattr(made, "finalize"):
        made.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    read = LeRobotDataset("me/small", root=root)
    rows = [read.hf_dataset[i] for i in range(len(read))]
    found = {k: np.stack([np.asarray(row[k]) for row in rows]) for k in rows[0] if k != "subtask"}
    found["observation.images.top"] = np.stack(film)
    np.savez_compressed(f"{root}.npz", **found)
    print(metadata.version("lerobot"), CODEBASE_VERSION, {k: v.shape for k, v in found.items()})


main()
