"""Rollouts of a policy, good and bad: what `pcm-distill dataset.more=[...]` trains on."""

from pathlib import Path

import numpy as np
import pytest

from pcm_policy.cli import data as cli_data
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy

pytest.importorskip("pymunk")
BRIEF = ("policy=released/pusht_mlp", "seed=7", "max_steps=24", "threads=1")
BRIEF += ("solver=dpmpp", "solver.steps=2", "num_envs=4", "solve_batch=4")


def generate(path: Path, *words: str) -> None:
    cli_data.generate_main(compose("data generate", [*BRIEF, f"path={path}", *words]))


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rollouts") / "rollouts.zarr"
    generate(path, "episodes=5", "failures=true")
    return path


def test_failed_episodes_are_kept_and_the_file_says_so(rollouts: Path) -> None:
    found = open_demonstrations(rollouts)
    assert np.diff([0, *found.episode_ends]).tolist() == [24] * 5  # none is over so soon
    import zarr

    made = dict(zarr.open_group(rollouts, mode="r").attrs)
    assert made["failures"] is True
    assert made["selection"] == "all episodes"
    assert made["seeds"] == [7, 8, 9, 10, 11]
    assert "success_rate" not in made


def test_they_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="0 of 4 episodes succeeded, 1 were asked for"):
        generate(tmp_path / "demos.zarr", "episodes=1", "attempts=4")
    with pytest.raises(PcmError, match="was begun with failures=None, not True"):
        generate(tmp_path / "demos.zarr", "episodes=1", "attempts=4", "failures=true")


def test_a_policy_that_cannot_act_is_not_tried_ten_thousand_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PcmError("this solver cannot")

    monkeypatch.setattr(DiffusionPolicy, "predict", refuse)
    with pytest.raises(PcmError, match=r"no episode of seeds 7 to 10 could begin: .*cannot"):
        generate(tmp_path / "demos.zarr", "episodes=5", "failures=true")


@pytest.mark.usefixtures("brief")
def test_a_head_is_trained_on_them_beside_the_demonstrations(
    rollouts: Path, tmp_path: Path
) -> None:
    words = ["policy=released/pusht_mlp", "dataset.path=released/pusht_demos", "threads=1"]
    words += ["train.steps=2", "train.batch=4", "distill.pool=8", "distill.guess_batch=8"]
    found = {}
    for name, more in (("alone", ""), ("both", f"dataset.more=[{rollouts}]")):
        given = [*words, f"output_dir={tmp_path / name}", *filter(None, [more])]
        found[name] = Path(cli_train.distill_main(compose("distill", given)))
    assert "rollouts.zarr" in (found["both"] / "README.md").read_text()
    assert "rollouts.zarr" not in (found["alone"] / "README.md").read_text()
    alone, both = (DiffusionPolicy.from_pretrained(path) for path in found.values())
    assert alone.head is not None
    assert both.head is not None
    one, other = alone.head.state_dict(), both.head.state_dict()
    assert any(not np.array_equal(one[k].numpy(), other[k].numpy()) for k in one)
