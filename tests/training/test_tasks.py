"""Nothing of a task is applied to data that are not that task's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.cli.tasks import named_task, other_split, reading_of
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.envs.pusht import mirror
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.reading import load_demonstrations
from pcm_policy.training.symmetry import reflect

QUICK = ["network.options.width=16", "network.options.depth=1", "device=cpu", "threads=1"]
RUN = ["train.steps=2", "train.batch=8"]
FIELDS = ("keypoint", "state[0:2]")
HERE = __name__


def turned(obs: NDArray[Any], action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A symmetry of a user's own."""
    return -obs, -action


def wide(obs: NDArray[Any], action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.concatenate([obs, obs], 1), action


def infinite(obs: NDArray[Any], action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return obs, action / 0


NUMBER = 3


def arm(path: Path, width: int) -> Path:
    """Joint angles of an arm, all of them below 1 in size."""
    rng = np.random.default_rng(width)
    joints = [rng.uniform(-0.9, 0.9, (40, width)).astype(np.float32) for _ in range(4)]
    write_replay(path, [{"observation.state": j, "action": j + 0.01} for j in joints])
    return path


@pytest.mark.parametrize("width", [6, 20, 26])
def test_data_of_another_robot_are_trained_and_distilled_as_they_are(
    tmp_path: Path, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"dataset.path={arm(tmp_path / 'arm.zarr', width)}", *RUN]
    words = [*QUICK, *data, f"output_dir={tmp_path}/run", "task.obs_fields=[observation.state]"]
    folder = cli_train.train_main(compose("train", words))
    policy = DiffusionPolicy.from_pretrained(folder)
    assert (policy.config.obs_dim, policy.config.action_dim, policy.config.task) == (
        width,
        width,
        "",
    )
    assert float(policy.action_normalizer.high.max()) < 1
    assert "99 training windows and 33 held-out windows" in (folder / "README.md").read_text()
    assert "the demonstrations say no rate" in capsys.readouterr().err
    head = ["head.options.width=16", "distill.pool=8", f"policy={folder}", "device=cpu"]
    made = cli_train.distill_main(compose("distill", [*head, *data, f"output_dir={tmp_path}/h"]))
    assert "99 training windows and 33 held-out windows" in (made / "README.md").read_text()


def test_a_run_without_task_and_fields_asks_for_them(demos: Path, tmp_path: Path) -> None:
    words = [*QUICK, *RUN, f"dataset.path={demos}", f"output_dir={tmp_path}/run"]
    with pytest.raises(
        PcmError, match=r"give a task, such as task=pusht, or say .task\.obs_fields="
    ):
        cli_train.train_main(compose("train", words))


def config(**changes: Any) -> PolicyConfig:
    return PolicyConfig(20, 2, **{"task": "pusht", "obs_fields": FIELDS, **changes})


def test_a_distillation_reads_as_its_policy_was_trained() -> None:
    none = {"name": None}
    pusht = "pcm_policy.envs.pusht:mirror"
    assert reading_of(config(), none) == {"names": {}, "symmetry": pusht}
    assert reading_of(config(obs_fields=("state",)), none)["symmetry"] is None
    assert reading_of(config(action_field="command"), none)["symmetry"] is None
    assert reading_of(config(task="my own"), none)["symmetry"] is None
    assert reading_of(config(task="../pusht"), none)["symmetry"] is None
    recorded = {"names": {"keypoint": "points"}, "symmetry": None}
    assert reading_of(config(demonstrations=recorded), none) == recorded
    named = named_task("pusht")
    assert named is not None
    assert reading_of(config(demonstrations=recorded), named)["symmetry"] == pusht
    with pytest.raises(PcmError, match=r"task=pusht observes .* leave task= out"):
        reading_of(config(obs_fields=("state",)), named)
    with pytest.raises(PcmError, match=r"dataset.symmetry=mine:turned imports and uses it"):
        reading_of(config(demonstrations={"symmetry": "mine:turned"}), none)


@pytest.mark.parametrize(
    "held", [{"names": 5}, {"names": {"a": 1}}, {"names": [["a", "b"]]}, {"symmetry": 3}]
)
def test_a_config_that_says_nothing_of_the_kind_is_one_line(held: dict[str, Any]) -> None:
    with pytest.raises(PcmError, match=r"config.json: demonstrations holds no names"):
        reading_of(config(demonstrations=held), {"name": None})


def test_episodes_that_the_policy_was_trained_on_are_not_held_out_unsaid() -> None:
    dataset = DatasetConfig("a.zarr")
    same = {"val_fraction": dataset.val_fraction, "val_seed": dataset.val_seed}
    assert other_split(config(), dataset) is None  # as policies of before
    assert other_split(config(demonstrations=same), dataset) is None
    said = other_split(config(demonstrations=same | {"val_seed": 7}), dataset)
    assert said is not None
    assert "was trained with dataset.val_seed=7: other episodes are held out" in said
    filtered = DatasetConfig("a.hdf5", val_filter_key="valid")
    assert other_split(config(demonstrations=same | {"val_seed": 7}), filtered) is None


def test_what_a_run_was_trained_with_is_recorded(demos: Path, tmp_path: Path) -> None:
    here = [*QUICK, *RUN, "task=pusht", f"dataset.path={demos}"]
    for symmetry, windows in ((f"{HERE}:turned", 330), ("null", 165), ("auto", 330)):
        output = f"output_dir={tmp_path}/{windows}{symmetry[:2]}"
        folder = cli_train.train_main(
            compose("train", [*here, output, f"dataset.symmetry={symmetry}"])
        )
        expected = {"null": None, "auto": "pcm_policy.envs.pusht:mirror"}.get(symmetry, symmetry)
        kept = DiffusionPolicy.from_pretrained(folder).config.demonstrations
        split = {"val_fraction": 0.05, "val_seed": 42}
        assert kept == {"names": {}, "symmetry": expected, **split}
        card = (folder / "README.md").read_text()
        assert f"{windows} training" in card
        assert ("copies" in card) == (expected is not None)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("os:getcwd", "does not map observations"),
        ("os:path", "is no function"),
        ("nothing", "give module:function"),
        ("no_such_module:f", "give module:function"),
        ("os:no_such_function", "give module:function"),
        (f"{HERE}:NUMBER", "is no function"),
        (f"{HERE}:wide", r"maps observations of shape \(240, 20\) to \(240, 40\)"),
        (f"{HERE}:infinite", "not all of them finite"),
        ("builtins:zip", "does not map observations"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_symmetry_that_does_not_fit_is_one_line(demos: Path, name: str, match: str) -> None:
    dataset = DatasetConfig(str(demos), symmetry=name)
    with pytest.raises(PcmError, match=f"dataset.symmetry={name}.*{match}") as caught:
        load_demonstrations(dataset, config())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [("points", "state[0:2]"), ("keypoint",), ()])
def test_the_mirror_image_is_of_its_own_fields(fields: tuple[str, ...]) -> None:
    rows = torch.zeros(3, 20), torch.zeros(3, 2)
    with pytest.raises(PcmError, match=r"maps observations \[keypoint, state\[0:2\]\]"):
        reflect("pcm_policy.envs.pusht:mirror", *rows, config(obs_fields=fields))


@pytest.mark.parametrize(("do", "da"), [(19, 2), (21, 2), (20, 3), (18, 2), (6, 6), (26, 26)])
def test_the_mirror_image_takes_its_own_width(do: int, da: int) -> None:
    with pytest.raises(PcmError, match=f"not {do} and {da}"):
        mirror(np.zeros((3, do), np.float32), np.zeros((3, da), np.float32))
