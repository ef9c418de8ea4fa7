"""The large LeRobot folder, small: what is written, what is trained, and how often it is killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="pip install 'pcm_policy[video]'")
pytest.importorskip("pyarrow", reason="pip install 'pcm_policy[convert]'")
from benchmarks import big_lerobot
from pcm_policy.cli.compose import compose
from pcm_policy.datasets.frames import open_frames
from pcm_policy.datasets.usual import usual_fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "demos_lerobot"
    big_lerobot.make(path, 3, 5)
    return path


def test_a_folder_is_read_as_it_is(folder: Path) -> None:
    usual = usual_fields(folder)
    assert usual.obs_fields == ("observation.state",)
    assert usual.cameras == dict.fromkeys(big_lerobot.CAMERAS, (84, 84))
    for name in big_lerobot.CAMERAS:
        frames = open_frames(folder, name, (84, 84), folder.parent / "frames")
        assert len(frames) == 15
        assert np.std(frames.take(np.arange(15))) > 20  # squares of any colour
    assert big_lerobot.from_disk(folder, folder.parent / "frames", 15, batches=2) > 0


def test_what_is_trained_is_the_default_image_policy(folder: Path) -> None:
    train = big_lerobot.train(folder, folder.parent / "run", 20)
    settings: Any = compose("train", train[3:])
    assert train[:3] == ["-m", "pcm_policy.cli", "train"]
    assert (settings.network.name, settings.policy.vision.backbone) == ("mlp", "resnet18")
    assert (settings.train.batch, settings.train.save_every) == (64, 10)


def test_it_is_killed_while_it_decodes_and_between_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs are played: what they leave is seen, and by whom they were ended."""
    run, killed = tmp_path / "run", []
    (run / "frames").mkdir(parents=True)

    def play(words: list[str], kill: Callable[[], bool] | None = None) -> None:
        assert "resume=true" in words
        killed.append(kill is not None)
        frames = run / "frames"
        if len(killed) == 1:
            assert kill is not None
            assert not kill()
            for name in ("a.frames", "a.json"):
                (frames / name).touch()
            assert not kill()
            (frames / ".b.frames.1").touch()
            assert kill()
        elif len(killed) == 2:
            assert kill is not None
            (frames / ".b.frames.1").rename(frames / "b.frames")
            for step in range(1, 16):
                assert not kill()
                with (run / "metrics.jsonl").open("a") as log:
                    log.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
            assert kill()
        else:
            (run / "policy").mkdir()
            (run / "policy/model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(big_lerobot, "watched", play)
    found = big_lerobot.interrupted(tmp_path / "source", run, 20, wait=0.0)
    assert killed == [True, True, False]
    assert found.pop("digest") == big_lerobot.digest(run)
    assert found == {
        "half_decoded_files": 1,
        "of_them_at_the_end": 0,
        "whole_ones_decoded_again": 0,
        "checkpoint": 10,
        "killed_after_step": 15,
    }
