"""Training reads demonstrations of every format as they are: the arrays that a conversion gives."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats import lerobot_images
from pcm_policy.datasets.formats.loading import frame_source, load
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.frames import open_frames
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.recording import Episode, Recording
from pcm_policy.datasets.usual import usual_fields
from pcm_policy.errors import PcmError
from tests.datasets.lerobot_folders import LENGTHS, folder, table, with_column
from tests.datasets.test_video import CAMERA, SIZE, frame, lerobot, number_of

RNG = np.random.default_rng(0)


def episodes(lengths: tuple[int, ...] = (5, 3, 8)) -> list[dict[str, Any]]:
    """Numbers of several types, and a small camera."""
    return [
        {
            "observation.state": RNG.normal(size=(n, 4)),
            "action": RNG.normal(size=(n, 2)).astype(np.float32),
            "observation.top": RNG.integers(0, 255, (n, 6, 8, 3), np.uint8),
            "step": np.arange(n),
        }
        for n in lengths
    ]


@pytest.fixture(params=["a.zarr", "a.hdf5", "folder", "minari:a-v0"])
def source(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The same episodes in a format, and in a replay buffer."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    if request.param.startswith("minari"):
        pytest.importorskip("minari", reason="minari is not installed: pip install '.[minari]'")
    plain = tmp_path / "plain.zarr"
    write_replay(plain, episodes())
    name = Path(request.param) if ":" in request.param else tmp_path / request.param
    convert(plain, name, fps=10)
    return name, plain


def test_numbers_and_frames_are_those_of_a_replay_buffer(
    source: tuple[Path, Path], tmp_path: Path
) -> None:
    path, plain = source
    keys = ["observation.state", "action"]
    if path.suffix == ".hdf5":  # robomimic calls the array so; asking by either name is right
        keys = ["observation.state", "actions"]
    found, expected = open_demonstrations(path, keys), open_replay(plain)
    assert list(found.arrays) == keys
    np.testing.assert_array_equal(found.episode_ends, expected.episode_ends)
    for name, values in zip(("observation.state", "action"), found.arrays.values(), strict=True):
        np.testing.assert_array_equal(values, expected.arrays[name])
    frames = open_frames(path, "observation.top", (6, 8), tmp_path / "cache")
    images = expected.arrays["observation.top"]
    np.testing.assert_array_equal(frames.take(np.arange(len(images))), images)
    few = open_frames(path, "observation.top", (6, 8), tmp_path / "cache", rows=7)
    np.testing.assert_array_equal(few.take(np.arange(7)), images[:7])
    assert len(few) in (7, len(images))  # what is mapped where it is is not cut
    with pytest.raises(PcmError, match=r"holds \(6, 8, 3\) uint8 a step; expected images \(6, 6"):
        open_frames(path, "observation.top", (6, 6), tmp_path / "cache")
    with pytest.raises(PcmError, match=r"missing; .*observation\.state"):
        open_demonstrations(path, ["nothing"])
    with pytest.raises(PcmError, match=r"missing; .*observation\.state"):
        open_frames(path, "nothing", (6, 8), tmp_path / "cache")


def test_what_is_observed_is_found_by_its_name(source: tuple[Path, Path]) -> None:
    path, _ = source
    found = usual_fields(path)
    within = path.suffix == ".hdf5" or ":" in str(path)  # there all but the actions is in obs
    in_obs = ("observation.state", "step") if within else ("observation.state",)
    assert found.obs_fields == in_obs
    assert found.action_field in ("action", "actions")
    assert found.cameras == {"observation.top": (6, 8)}
    assert "task.cameras={observation.top:[6,8]}" in found.said


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("block", [1, 4, 32])
def test_videos_are_decoded_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, block: int
) -> None:
    monkeypatch.setattr(lerobot_images, "BLOCK", block)
    numbers = lerobot(tmp_path / "a", version)
    frames = open_frames(tmp_path / "a", CAMERA, SIZE, tmp_path / "cache")
    assert [number_of(x) for x in frames.take(np.arange(len(frames)))] == numbers
    stored = open_frames(tmp_path / "a", "wrist", SIZE, tmp_path / "cache")
    np.testing.assert_array_equal(
        stored.take(np.arange(len(stored))), [frame(number) for number in numbers]
    )
    assert usual_fields(tmp_path / "a").cameras == {CAMERA: SIZE}  # the wrist's is no observation


def test_a_folder_of_lerobot(tmp_path: Path) -> None:
    path = folder(tmp_path / "lr", {"file-000.parquet": table()})
    found = open_demonstrations(path, ["observation.state"])
    np.testing.assert_array_equal(found.lengths, LENGTHS)
    np.testing.assert_array_equal(
        found.arrays["observation.state"][:, 0], np.repeat(np.arange(3), LENGTHS)
    )
    usual = usual_fields(path)
    assert (usual.obs_fields, usual.action_field) == (("observation.state",), "action")
    with pytest.raises(PcmError, match="only robomimic's HDF5 has filter keys"):
        open_demonstrations(path, ["action"], "valid")


def test_a_value_that_is_not_finite_is_named(tmp_path: Path) -> None:
    values = np.ones(sum(LENGTHS), np.float32)
    values[LENGTHS[0] + 2] = np.nan
    more = {"force": {"dtype": "float32", "shape": [1], "names": None}}
    path = folder(
        tmp_path / "lr", {"file-000.parquet": with_column("force", pa.array(values))}, more=more
    )
    with pytest.raises(PcmError, match=r"force: NaN or inf in 1 rows, first at row 14"):
        open_demonstrations(path, ["action", "force"])
    assert open_demonstrations(path, ["action"]).n_steps == sum(LENGTHS)  # the others are not read


def test_nothing_that_is_called_an_observation(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", [{"state": np.ones((3, 2)), "action": np.ones((3, 2))}])
    with pytest.raises(PcmError, match=r"nothing is called an observation; .* state.*obs_fields="):
        usual_fields(tmp_path / "a.zarr")
    write_replay(tmp_path / "b.zarr", [{"obs": np.ones((3, 2)), "torque": np.ones((3, 2))}])
    with pytest.raises(PcmError, match=r"nothing is called an action; .* torque"):
        usual_fields(tmp_path / "b.zarr")


def test_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    """Frames of a recording are read an episode at a time, and numbers without its frames."""
    alive: list[str] = []

    def read(names: Collection[str]) -> Iterator[Episode]:
        for n in (4, 2):
            alive.append(",".join(sorted(names)))
            whole = {"x": np.ones((n, 2)), "top": np.full((n, 2, 2, 3), n, np.uint8)}
            yield {name: whole[name] for name in names}

    fields = {"x": np.dtype((np.float64, (2,))), "top": np.dtype((np.uint8, (2, 2, 3)))}
    recording = Recording(tmp_path, fields, 2, read)
    assert load(recording, ["x"]).lengths.tolist() == [4, 2]
    assert alive == ["x", "x"]
    source = frame_source(recording, "top")
    assert source.count == 6
    alive.clear()
    blocks = source.blocks()
    assert len(next(blocks)[1]) == 4
    assert alive == ["top"]
