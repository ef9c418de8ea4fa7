"""Training without a task, on demonstrations as they are: the data say what is observed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from tests.training.small import TRAIN, assert_same, distill, forget, train
from tests.training.test_seeing import SMALL

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[convert]'")
UNTOLD = "task=custom"
TOLD = ("task.obs_fields=[observation.state]", "task.control_hz=10", UNTOLD)


@pytest.fixture(scope="module")
def folder(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot folder with a state alone."""
    path = tmp_path_factory.mktemp("untold") / "lr"
    names = {"state": "observation.state"}
    convert(demos, path, rename=names, leave_out=["keypoint"], fps=10)
    return path


def test_a_folder_trains_as_its_conversion_does(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(folder, tmp_path / "a.zarr")
    direct = train(folder, tmp_path / "direct", UNTOLD, "train.steps=4")
    line = 'taken from the demonstrations, as nothing else is said: "task.obs_fields=[observation.s'
    assert line in capsys.readouterr().err
    told = train(tmp_path / "a.zarr", tmp_path / "told", *TOLD, "train.steps=4")
    assert_same(direct, told)
    config = DiffusionPolicy.from_pretrained(direct).config
    assert (config.obs_fields, config.control_hz) == (("observation.state",), 10)
    assert config.demonstrations["symmetry"] is None
    headed = distill(direct, folder, tmp_path / "head", "train.steps=2")
    assert DiffusionPolicy.from_pretrained(headed).head is not None


def test_a_killed_run_on_a_folder_goes_on_the_same(folder: Path, tmp_path: Path) -> None:
    words = (UNTOLD, "train.save_every=2", "train.steps=4")
    shutil.copytree(train(folder, tmp_path / "run", *words), tmp_path / "whole")
    forget(tmp_path / "run", 2)
    shutil.rmtree(tmp_path / "run/policy")
    assert_same(tmp_path / "whole", train(folder, tmp_path / "run", *words, "resume=true"))


def test_cameras_are_taken_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observation.state": rng.normal(size=(20, 2)).astype(np.float32),
            "action": rng.normal(size=(20, 2)).astype(np.float32),
            "observation.images.top": rng.integers(0, 255, (20, 96, 96, 3), np.uint8),
        }
        for _ in range(2)
    ]
    write_replay(tmp_path / "a.zarr", episodes)
    convert(tmp_path / "a.zarr", tmp_path / "lr", fps=10)
    seeing = [word for word in SMALL if not word.startswith("task=")]
    words = [*seeing, UNTOLD, "train.steps=1", "dataset.val_fraction=0"]
    policy = DiffusionPolicy.from_pretrained(train(tmp_path / "lr", tmp_path / "run", *words))
    assert policy.config.vision is not None
    assert policy.config.vision.cameras == {"observation.images.top": (96, 96)}
    said = 'task.cameras={observation.images.top:[96,96]}"'
    assert said in capsys.readouterr().err
    again = train(  # what was said, given back
        tmp_path / "lr", tmp_path / "again", *words, TOLD[0], said.strip('"')
    )
    assert_same(tmp_path / "run/policy", again)
    low = train(tmp_path / "lr", tmp_path / "low", *words, TOLD[0])  # fields alone: no camera
    assert DiffusionPolicy.from_pretrained(low).config.vision is None


def test_data_that_call_nothing_an_observation(demos: Path, tmp_path: Path) -> None:
    assert "keypoint" in open_replay(demos).arrays
    with pytest.raises(PcmError, match=r"nothing is called an observation; the arrays are"):
        train(demos, tmp_path / "run", UNTOLD)
    assert TRAIN[0] == "task=pusht"
