"""Cameras written as videos: each step has its own frame, near to what it was."""

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats import lerobot_films
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.open import open_demonstrations
from tests.datasets.test_video import SIZE, frame, number_of

pytest.importorskip("av", reason="av is not installed: pip install 'pcm_policy[video]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[convert]'")
LENGTHS = (5, 9, 4)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Numbered frames of a camera, and of one that no video can hold."""
    starts = np.cumsum([0, *LENGTHS])
    episodes = [
        {
            "action": np.full((n, 2), start, np.float32),
            "observation.images.top": np.stack([frame(start + k) for k in range(n)]),
            "observation.images.odd": np.full((n, 3, 5, 3), start, np.uint8),
        }
        for start, n in zip(starts, LENGTHS, strict=False)
    ]
    write_replay(tmp_path / "a.zarr", episodes)
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_every_step_has_its_own_frame(
    plain: Path,
    tmp_path: Path,
    version: Literal["v3.0", "v2.1"],
    codec: Literal["av1", "h264"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lerobot_films, "_FILE_BYTES", -1)  # a file of its own for every episode
    done = convert(plain, tmp_path / "lr", fps=10, lerobot_version=version, lerobot_video=codec)
    assert any("observation.images.odd has odd sizes" in note for note in done.notes)
    info = json.loads((tmp_path / "lr/meta/info.json").read_text())
    top = info["features"]["observation.images.top"]
    assert (top["dtype"], top["shape"]) == ("video", [*SIZE, 3])
    assert top["info"]["video.codec"] == codec
    assert info["features"]["observation.images.odd"]["dtype"] == "image"
    assert len(list((tmp_path / "lr/videos").rglob("*.mp4"))) == len(LENGTHS)
    convert(tmp_path / "lr", tmp_path / "back.zarr", images="all")
    back, was = open_replay(tmp_path / "back.zarr"), open_replay(plain)
    frames = back.arrays["observation.images.top"]
    assert [number_of(image) for image in frames] == list(range(sum(LENGTHS)))
    np.testing.assert_array_equal(back.episode_ends, was.episode_ends)
    np.testing.assert_array_equal(
        back.arrays["observation.images.odd"], was.arrays["observation.images.odd"]
    )
    assert open_demonstrations(tmp_path / "lr", ["action"]).n_steps == sum(LENGTHS)


def test_episodes_share_a_file(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "lr", fps=29.97, lerobot_video="av1")
    assert len(list((tmp_path / "lr/videos").rglob("*.mp4"))) == 1
    convert(tmp_path / "lr", tmp_path / "back.zarr", images="all")
    frames = open_replay(tmp_path / "back.zarr").arrays["observation.images.top"]
    assert [number_of(image) for image in frames] == list(range(sum(LENGTHS)))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no policies")
def test_an_encoder_leaves_the_thread_its_priority(plain: Path, tmp_path: Path) -> None:
    """SVT-AV1 makes its caller realtime where it may: as root, as in most containers."""
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    convert(plain, tmp_path / "lr", fps=10, lerobot_video="av1")
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before


def test_pictures_are_the_default(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "lr", fps=10)
    assert not (tmp_path / "lr/videos").exists()
    info = json.loads((tmp_path / "lr/meta/info.json").read_text())
    assert info["features"]["observation.images.top"]["dtype"] == "image"
    assert info["video_path"] is None
