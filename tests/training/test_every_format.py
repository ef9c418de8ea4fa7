"""Files of other projects from ``info`` to a trained policy, by all commands in turn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.policy.policy import DiffusionPolicy
from tests.training.small import assert_same, train

pytest.importorskip("h5py", reason="pip install '.[convert]'")
from tests.datasets import test_hdf5, test_trajectories

LENGTHS = (24, 17, 30)


def isaac_lab(path: Path) -> None:
    """As robomimic, without env_kwargs."""
    test_hdf5.healthy(path, {"env_name": "Isaac-Lift-Cube-Franka-IK-Rel-v0", "type": 2})


def robomimic(path: Path) -> None:
    """As robosuite's demonstrations are written."""
    kwargs = {"control_freq": 20, "robots": ["Panda"]}
    test_hdf5.healthy(path, {"env_name": "Lift", "type": 1, "env_kwargs": kwargs})


def drawn() -> list[dict[str, np.ndarray[Any, Any]]]:
    """Episodes of LENGTHS: a state, and an action that follows from it."""
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(count, 3)).cumsum(0).astype(np.float32) for count in LENGTHS]
    return [{"state": rows, "action": np.tanh(rows[:, :2])} for rows in states]


def npz(path: Path) -> None:
    """Flat arrays and the ends of episodes."""
    episodes = drawn()
    flat = {name: np.concatenate([one[name] for one in episodes]) for name in episodes[0]}
    np.savez_compressed(path, episode_ends=np.cumsum(LENGTHS), **flat)  # type: ignore[arg-type]


def umi(path: Path) -> None:
    """A replay buffer in zarr's format 2, as UMI's and Diffusion Policy's are."""
    write_replay(path, drawn(), zarr_format=2)


def minari(path: Path) -> None:
    """A data set of Minari's own making."""
    library = pytest.importorskip("minari", reason="pip install '.[minari]'")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=np.concatenate([one["state"], one["state"][-1:]]),
            actions=one["action"],
            rewards=np.zeros(len(one["action"])),
            terminations=np.arange(len(one["action"])) == len(one["action"]) - 1,
            truncations=np.zeros(len(one["action"]), bool),
        )
        for one in drawn()
    ]
    library.create_dataset_from_buffers(
        str(path).removeprefix("minari:"),
        buffers,
        observation_space=spaces.Box(-99, 99, (3,), np.float32),
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        author={"someone"},
        description="drawn",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "name", "field", "action"),
    [
        (test_trajectories.aloha, "aloha", "observation.qpos", "action"),
        (test_trajectories.maniskill, "trajectory.h5", "observation.agent.qpos", "action"),
        (test_trajectories.d4rl, "d4rl.hdf5", "observation", "action"),
        (isaac_lab, "isaac.hdf5", "state", "actions"),
        (robomimic, "lift.hdf5", "state", "actions"),
        (npz, "drawn.npz", "state", "action"),
        (umi, "drawn.zarr.zip", "state", "action"),
        (minari, "minari:lab/drawn-v0", "observation", "action"),
    ],
)
def test_from_info_to_a_policy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], object],
    name: str,
    field: str,
    action: str,
) -> None:
    """Training on a file is training on its conversion."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(test_trajectories, "LENGTHS", LENGTHS)
    monkeypatch.setattr(test_hdf5, "STEPS", LENGTHS)
    source = Path(name) if name.startswith("minari:") else tmp_path / name
    make(source)
    assert f"3 episodes, {sum(LENGTHS)} rows" in summary(source)
    assert validate(source).ok
    convert(source, tmp_path / "a.zarr")
    words = [f"task.obs_fields=[{field}]", f"task.action_field={action}", "task.control_hz=20"]
    words += ["task=custom", "train.steps=50"]
    direct = train(source, tmp_path / "direct", *words)
    assert_same(direct, train(tmp_path / "a.zarr", tmp_path / "told", *words))
    config = DiffusionPolicy.from_pretrained(direct).config
    assert (config.obs_fields, config.action_field) == ((field,), action)
