"""HDF5 files of other projects from ``info`` to a trained policy, by all commands in turn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.policy.policy import DiffusionPolicy
from tests.training.small import assert_same, train

pytest.importorskip("h5py", reason="pip install '.[convert]'")
from tests.datasets import test_hdf5, test_trajectories

LENGTHS = (24, 17, 30)


def isaac_lab(path: Path) -> None:
    """As robomimic, without env_kwargs."""
    test_hdf5.healthy(path, {"env_name": "Isaac-Lift-Cube-Franka-IK-Rel-v0", "type": 2})


@pytest.mark.parametrize(
    ("make", "name", "field"),
    [
        (test_trajectories.aloha, "aloha", "observation.qpos"),
        (test_trajectories.maniskill, "trajectory.h5", "observation.agent.qpos"),
        (test_trajectories.d4rl, "d4rl.hdf5", "observation"),
        (isaac_lab, "isaac.hdf5", "state"),
    ],
)
def test_from_info_to_a_policy(
    tmp_path: Path, monkeypatch: Any, make: Callable[[Path], object], name: str, field: str
) -> None:
    """Training on a file is training on its conversion."""
    monkeypatch.setattr(test_trajectories, "LENGTHS", LENGTHS)
    monkeypatch.setattr(test_hdf5, "STEPS", LENGTHS)
    source = tmp_path / name
    make(source)
    assert f"3 episodes, {sum(LENGTHS)} rows" in summary(source)
    assert validate(source).ok
    convert(source, tmp_path / "a.zarr")
    action = "actions" if make is isaac_lab else "action"
    words = [f"task.obs_fields=[{field}]", f"task.action_field={action}", "task.control_hz=20"]
    words += ["task=custom", "train.steps=50"]
    direct = train(source, tmp_path / "direct", *words)
    assert_same(direct, train(tmp_path / "a.zarr", tmp_path / "told", *words))
    config = DiffusionPolicy.from_pretrained(direct).config
    assert (config.obs_fields, config.action_field) == ((field,), action)
