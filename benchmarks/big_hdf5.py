"""Memory of our commands on a file of camera demonstrations that is large (docs/training.md).

    python -m benchmarks.big_hdf5 OUTPUT [--gigabytes 10] [--steps 20]

Makes a robomimic file with two cameras of noise, which nothing compresses, and one a tenth as
large. Every command is a process of its own, which :mod:`benchmarks.watched` watches. OUTPUT needs
room for twice the size; all that is in it is removed.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks import RESULTS
from benchmarks.watched import HEAD, command, lines, watched
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by, versions
from pcm_policy.measure.tables import table

FILE = RESULTS / "memory/big_hdf5.json"
EPISODE, SIZE = 200, (84, 84, 3)
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
NUMBERS = {"actions": 7, "states": 32, "obs/robot0_eef_pos": 3, "obs/robot0_gripper_qpos": 2}
STEP = len(CAMERAS) * int(np.prod(SIZE)) + 8 * sum(NUMBERS.values())
"""Bytes of a step."""
TRAINING = [
    *("device=cpu", "threads=1", "train.batch=4", "train.warmup=1", "network.options.width=32"),
    *("network.options.depth=1", "policy.vision.keypoints=8", "policy.vision.crop=[76,76]"),
    *("task.obs_fields=[robot0_eef_pos,robot0_gripper_qpos]", "task.action_field=actions"),
    *(f"task.cameras={{{','.join(f'{name}:[84,84]' for name in CAMERAS)}}}", "task.control_hz=20"),
]


def make(path: Path, size: float, steps: int = EPISODE) -> int:
    """Write a robomimic file, a demonstration at a time; return how many there are.

    Args:
        path: of the file.
        size: its bytes, roughly; at least 20 demonstrations are made, so that one can be held out.
        steps: of a demonstration.
    """
    rng = np.random.default_rng(0)
    count = max(20, round(size / STEP / steps))
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        data.attrs["env_args"], data.attrs["total"] = json.dumps(env), count * steps
        for i in range(count):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = steps
            for name, width in NUMBERS.items():
                demo[name] = rng.uniform(-1, 1, (steps, width))
            for name in CAMERAS:
                demo[f"obs/{name}"] = rng.integers(0, 256, (steps, *SIZE), np.uint8)
    return count


def commands(folder: Path, size: float, steps: int) -> dict[str, Any]:
    """Measure all commands on a file that is made for them."""
    source, converted = folder / "demos.hdf5", folder / "demos.zarr"
    count = make(source, size)
    found: dict[str, Any] = {"bytes": source.stat().st_size, "episodes": count, "rows": {}}
    rows, training = found["rows"], [*TRAINING, f"train.steps={steps}"]

    def train(path: Path, name: str) -> None:
        rows[name] = watched(
            command("train", *training, f"dataset.path={path}", f"output_dir={folder}/r")
        )
        frames = folder / "r/frames"
        cached = sum(f.stat().st_size for f in frames.iterdir()) if frames.exists() else 0
        rows[name]["frames_bytes"] = cached
        shutil.rmtree(folder / "r")

    for name in ("info", "validate"):
        rows[f"pcm-data {name}"] = watched(command("data", name, str(source)))
    train(source, "pcm-train, frames mapped where they are")
    rows["pcm-data convert, to zarr"] = watched(
        command("data", "convert", str(source), str(converted))
    )
    source.unlink()
    train(converted, "pcm-train, on the zarr: frames decoded into a file")
    shutil.rmtree(converted)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="a new folder, which is removed at the end")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    asked = parser.parse_args(argv)
    asked.output.mkdir(parents=True)
    try:
        size = asked.gigabytes * 1e9
        sizes = {"tenth": size / 10, "whole": size}
        found = {name: commands(asked.output, size, asked.steps) for name, size in sizes.items()}
    finally:
        shutil.rmtree(asked.output)
    report = {
        "gigabytes": asked.gigabytes,
        **found,
        "versions": versions("h5py", "zarr"),
        **made_by(),
        "hardware": hardware(torch.device("cpu")),
    }
    report["command"] = report["command"].replace(str(asked.output), "OUTPUT")
    write_text(FILE, to_json(report))
    print(table(HEAD, lines(report)))


if __name__ == "__main__":
    main()
