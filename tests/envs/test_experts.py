import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.envs.absolute import add_absolute_actions
from pcm_policy.envs.experts import make_expert
from pcm_policy.envs.robosuite import Robosuite
from pcm_policy.errors import PcmError
from pcm_policy.rollout.actors import ExpertActor, World
from pcm_policy.rollout.generate import generate

pytest.importorskip("robosuite")
h5py = pytest.importorskip("h5py")


def _arm(env_args: dict[str, Any]) -> dict[str, Any]:
    """Return the arm's controller of a description for 1.4 or for 1.5."""
    controller = env_args["env_kwargs"]["controller_configs"]
    return controller.get("body_parts", {}).get("right", controller)


@pytest.mark.parametrize(("task", "limit"), [("lift", 60), ("can", 200), ("square", 200)])
def test_an_expert_does_its_task(task: str, limit: int) -> None:
    env = Robosuite(task.capitalize(), control="delta")
    expert = make_expert(task)
    try:
        observation, _ = env.reset(seed=1)
        expert.reset(np.random.default_rng([1, 1]))
        success, step = False, 0
        while not success and step < limit:
            action = expert.act(observation)
            assert action.shape == (7,)
            assert np.abs(action).max() <= 1.0
            observation, reward, success, _, _ = env.step(action)
            step += 1
    finally:
        env.close()
    assert (success, reward) == (True, 1.0)
    assert step > 15


@pytest.mark.parametrize("task", ["can", "square"])
def test_a_grasp_that_closed_too_early_is_tried_again(task: str) -> None:
    env, expert = Robosuite(task.capitalize(), control="delta"), make_expert(task)
    widths: list[float] = []
    try:
        observation, _ = env.reset(seed=0)
        expert.reset(np.random.default_rng([0, 1]))
        assert expert._above > 0.04  # what seed 0 draws
        success = False
        while not success and len(widths) < 300:
            observation, _, success, _, _ = env.step(expert.act(observation))
            fingers = observation["robot0_gripper_qpos"]
            widths.append(float(fingers[0] - fingers[1]))
    finally:
        env.close()
    assert success
    empty = next(i for i, width in enumerate(widths) if width < expert.empty)
    assert max(widths[empty:]) > 0.06  # opened again


def test_episodes_of_an_expert_differ_and_repeat() -> None:
    observation = {
        "object": np.float32([0.02, -0.01, 0.82, 0, 0, 0.6, 0.8, 0, 0, 0]),
        "robot0_eef_pos": np.float32([-0.1, 0, 1.0]),
        "robot0_eef_quat": np.float32([1, 0, 0, 0]),
        "robot0_gripper_qpos": np.float32([0.02, -0.02]),
    }

    def first_actions(seed: int) -> np.ndarray:
        expert = make_expert("lift")
        expert.reset(np.random.default_rng(seed))
        return np.array([expert.act(observation) for _ in range(3)])

    np.testing.assert_array_equal(first_actions(1), first_actions(1))
    assert np.abs(first_actions(1) - first_actions(2)).max() > 0.02


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of Lift as ``pcm-data generate task=lift`` writes them."""
    path = tmp_path_factory.mktemp("lift") / "lift.hdf5"
    world = World("lift", "pcm_policy/Lift-v0", {"control": "delta"})
    generate(ExpertActor(world, 1), world, path, episodes=2, attempts=4, seed=0, control_hz=20.0)
    return path


def test_a_generated_file_repeats_in_robomimics_own_environment(demos: Path) -> None:
    from pcm_policy.envs.simulators import import_robomimic

    with h5py.File(demos) as file:
        demo = file["data/demo_1"]
        states, actions = demo["states"][:], demo["actions"][:]
        model = demo.attrs["model_file"]
    obs_utils = import_robomimic("robomimic.utils.obs_utils")
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"]}})
    meta = import_robomimic("robomimic.utils.file_utils").get_env_metadata_from_dataset(str(demos))
    env = import_robomimic("robomimic.utils.env_utils").create_env_from_metadata(meta)
    env.reset_to({"model": model, "states": states[0]})
    for i, action in enumerate(actions):
        np.testing.assert_array_equal(env.get_state()["states"], states[i])
        env.step(action)
    assert env.is_success()["task"]
    env.env.close()


def test_absolute_actions_are_added_to_a_file(demos: Path, tmp_path: Path) -> None:
    plain, target = tmp_path / "plain.hdf5", tmp_path / "absolute.hdf5"
    convert(demos, plain, leave_out=["absolute_action"])
    with h5py.File(plain) as file, h5py.File(demos) as own:
        assert "absolute_actions" not in file["data/demo_0"]
        assert "absolute_actions" in own["data/demo_0"]
    assert add_absolute_actions(plain, target) == 2
    with h5py.File(target) as file, h5py.File(demos) as own:
        for name in ("demo_0", "demo_1"):
            found, want = (f["data"][name]["absolute_actions"][:] for f in (file, own))
            np.testing.assert_array_equal(found, want)
    with pytest.raises(PcmError, match="exists: choose another path"):
        add_absolute_actions(plain, target)


def test_absolute_axis_angles_need_no_simulator(demos: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "axis.hdf5", tmp_path / "absolute.hdf5"
    with h5py.File(source, "w") as file:
        args = json.loads(h5py.File(demos)["data"].attrs["env_args"])
        _arm(args).pop("input_type", None)
        _arm(args)["control_delta"] = False
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(args)
        data["demo_0/actions"] = np.array([[0.1, 0.2, 0.3, 0, 0, np.pi / 2, 1]])
        data["demo_0/states"] = np.zeros((1, 32))
    add_absolute_actions(source, target)
    with h5py.File(target) as file:
        found = file["data/demo_0/absolute_actions"][:]
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.3, 0, -1, 0, 1, 0, 0, 1]], atol=1e-7)


def test_files_that_cannot_be_converted(demos: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.hdf5"
    convert(demos, path, leave_out=["states"])
    with pytest.raises(PcmError, match=r"demo_0: states: missing"):
        add_absolute_actions(path, tmp_path / "target.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_0/states"] = file["data/demo_1/states"] = np.zeros((1, 32))
        args = json.loads(file["data"].attrs["env_args"])
        _arm(args)["type"] = "IK_POSE"
        file["data"].attrs["env_args"] = json.dumps(args)
    with pytest.raises(PcmError, match="OSC_POSE, not IK_POSE"):
        add_absolute_actions(path, tmp_path / "target.hdf5")
    assert not list(tmp_path.glob("*target*"))


def test_a_task_without_an_expert_is_named() -> None:
    with pytest.raises(PcmError, match="no expert knows task 'transport': use lift, can, square"):
        make_expert("transport")
