"""Commands that roll out take the task that is named, or the one that their policy says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.cli import data as cli_data
from pcm_policy.cli.compose import compose
from pcm_policy.cli.settings.common import TaskSettings
from pcm_policy.cli.tasks import named_task, placed
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError
from pcm_policy.policy.places import RELEASED
from pcm_policy.settings import plain

ROLLING = {
    "eval": ["output_dir=x"],
    "bench loop": ["output_dir=x"],
    "bench tune": ["output_dir=x", "error=0.1"],
    "data generate": ["path=x.zarr"],
}


def of_task(folder: Path, task: str) -> Path:
    """A policy of another task, as far as its config goes."""
    shutil.copytree(RELEASED / "pusht_mlp", folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["policy"]["task"] = task
    file.write_text(json.dumps(config))
    return folder


def task_of(command: str, policy: object, *words: str) -> TaskSettings:
    settings: Any = compose(command, [*ROLLING[command], f"policy={policy}", *words])
    found: TaskSettings = placed(settings).task
    return found


@pytest.mark.parametrize("command", ROLLING)
@pytest.mark.parametrize(
    "task",
    [
        "pusht",
        "lift",
        "adroit_door",
        "kitchen",
        "aloha_transfer_cube",
        "metaworld/pick-place",
        "pusht_image",
    ],
)
def test_the_task_is_the_policys(tmp_path: Path, command: str, task: str) -> None:
    found = task_of(command, of_task(tmp_path / "policy", task))
    assert plain(found) == named_task(task)


@pytest.mark.parametrize("command", ROLLING)
def test_what_is_said_comes_first(tmp_path: Path, command: str) -> None:
    policy = of_task(tmp_path / "policy", "lift")
    assert task_of(command, policy, "task=can").env_id == "pcm_policy/Can-v0"
    changed = task_of(command, policy, "task.control_hz=7", "task.env_kwargs.cameras=[agentview]")
    assert (changed.env_id, changed.control_hz) == ("pcm_policy/Lift-v0", 7)
    assert changed.env_kwargs == {"cameras": ["agentview"]}
    own = task_of(command, policy, "task.env_id=mine:Mine-v0", "task.name=mine")
    assert (own.env_id, own.name) == ("mine:Mine-v0", "mine")


@pytest.mark.parametrize("command", ROLLING)
@pytest.mark.parametrize("task", ["", "arm", "custom", "robosuite", "metaworld", "../task/pusht"])
def test_a_policy_of_no_task_here_is_not_rolled_out_elsewhere(
    tmp_path: Path, command: str, task: str
) -> None:
    policy = of_task(tmp_path / "policy", task)
    with pytest.raises(PcmError, match=r"where is the policy to act\? give a task"):
        task_of(command, policy)


def test_another_projects_policy_and_an_expert_need_a_named_task() -> None:
    for command, policy in (("eval", "robomimic:model.pth"), ("data generate", "null")):
        with pytest.raises(PcmError, match=r"where is the policy to act\?"):
            task_of(command, policy)
        assert task_of(command, policy, "task=lift").env_id == "pcm_policy/Lift-v0"


def test_demonstrations_of_no_task_are_examined_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    joints = np.cumsum(rng.normal(0, 0.02, (4, 40, 6)), axis=1).astype(np.float32)
    write_replay(tmp_path / "arm.zarr", [{"qpos": j, "action": j + 0.01} for j in joints])
    cli_data.validate_main(compose("data validate", [f"path={tmp_path}/arm.zarr"]))
    assert "0 errors" in capsys.readouterr().out
