"""The tasks without an expert, from recorded steps through training to a rollout."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import pcm_policy.envs  # noqa: F401 (registers the environments)
from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.train import train_main
from pcm_policy.envs.record import demonstration, record

pytest.importorskip("robosuite")
h5py = pytest.importorskip("h5py")


@pytest.mark.parametrize(("task", "name"), [("transport", "Transport"), ("tool_hang", "ToolHang")])
def test_recorded_steps_train_a_policy_that_acts(task: str, name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "recorded.hdf5"
    env = gym.make(f"pcm_policy/{name}-v0", control="delta", max_episode_steps=20)
    try:
        size = env.action_space.shape
        found = record(env, 0, lambda _: random.uniform(-1, 1, size).astype(np.float32))
        arrays = demonstration(found, env)
    finally:
        env.close()
    config = compose("train", [f"task={task}", "dataset.path=x", "output_dir=x"])
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["absolute_actions"] = arrays["absolute_action"]
        demo["actions"] = arrays["action"]
        for key in config.task.obs_fields:
            demo[f"obs/{key}"] = arrays[key]
        demo.attrs["num_samples"] = len(found.actions)
    settings = [
        f"task={task}",
        f"dataset.path={path}",
        "dataset.val_fraction=0",
        f"output_dir={tmp_path / 'out'}",
        "network.options.width=32",
        "train.steps=2",
        "train.batch=4",
        "policy.max_excess=1e9",  # one recorded episode says little of the range
        "device=cpu",
    ]
    folder = train_main(compose("train", settings))
    settings = [f"task={task}", f"policy={folder}", f"output_dir={tmp_path / 'eval'}"]
    settings += ["episodes=1", "max_steps=4", "num_envs=1", "solve_batch=1", "latency_calls=1"]
    report = eval_main(compose("eval", [*settings, "device=cpu", "solver=ddim", "solver.steps=2"]))
    assert report["task"] == task
    assert [episode["steps"] for episode in report["episodes"]] == [4]
