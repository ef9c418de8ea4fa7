"""Small real files, each made by the other project's own writer (``foreign/make_*.py``).

Values are compared with those that the other project's reader gave, or that its writer was given.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.formats.minari import read_minari
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.errors import PcmError

HERE = Path(__file__).parent / "foreign"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(tmp_path: Path, version: str) -> None:
    pytest.importorskip("pyarrow", reason="pip install 'pcm_policy[convert]'")
    pytest.importorskip("av", reason="pip install 'pcm_policy[video]'")
    found = convert(HERE / "lerobot" / version, tmp_path / "a.zarr", images="all")
    assert found.lost == ("subtask (string)",)
    buffer = open_replay(tmp_path / "a.zarr")
    assert buffer.lengths.tolist() == [7, 5]
    with np.load(HERE / f"lerobot/{version}.npz") as theirs:
        for name in ("observation.state", "action"):
            np.testing.assert_array_equal(buffer.arrays[name], theirs[name], strict=True)
        for name in ("observation.force", "next.reward", "next.success"):
            ours = buffer.arrays[name][:, 0].astype(theirs[name].dtype)
            np.testing.assert_array_equal(ours, theirs[name])
        assert buffer.arrays["observation.force"].dtype == np.float64
        np.testing.assert_array_equal(buffer.arrays["task_index"], theirs["task_index"])
        wrist = (
            theirs["observation.images.wrist"].transpose(0, 2, 3, 1) * 255
        )  # LeRobot gives 0...1
        np.testing.assert_array_equal(buffer.arrays["observation.images.wrist"], wrist.round())
        film = theirs["observation.images.top"].astype(int)
        off = np.abs(buffer.arrays["observation.images.top"].astype(int) - film)
        assert off.mean() < 3  # AV1 changes colours a little; one step off is 15
    report = validate(HERE / "lerobot" / version, min_steps=5)
    assert report.ok
    assert "12 rows; 5 to 7 steps" in summary(HERE / "lerobot" / version)


def test_minari() -> None:
    pytest.importorskip("minari", reason="pip install 'pcm_policy[minari]'")
    recording = read_minari(HERE / "minari/pcm/goal-v0")
    places = {
        "place": "observations/place",
        "pair.0": "observations/pair/0",
        "pair.1": "observations/pair/1",
        "camera": "observations/camera",
        "action": "actions",
        "reward": "rewards",
        "terminated": "terminations",
        "truncated": "truncations",
        "info.success": "infos/success",
        "info.left": "infos/left",
    }
    assert set(recording.fields) == set(places)
    episodes = list(recording.read())
    with np.load(HERE / "minari/goal.npz") as theirs:
        for number, episode in enumerate(episodes):
            for name, place in places.items():
                rows = theirs[f"{number}/{place}"]
                rows = rows[1:] if place.startswith("infos") else rows[:5]
                np.testing.assert_array_equal(episode[name], rows)
            assert episode["info.success"].tolist() == [False] * 4 + [True]
            assert episode["info.success"].tolist() == episode["terminated"].tolist()
    assert recording.meta["minari"]["seeds"] == [0, 1]


def test_robosuite() -> None:
    pytest.importorskip("h5py", reason="pip install 'pcm_policy[convert]'")
    from pcm_policy.datasets.formats.robomimic import open_robomimic

    buffer = open_robomimic(HERE / "robosuite/demo.hdf5")
    with np.load(HERE / "robosuite/demo.npz") as theirs:
        assert set(buffer.arrays) == set(theirs.files)
        for name in theirs.files:
            np.testing.assert_array_equal(buffer.arrays[name], theirs[name], strict=True)
    found = {finding.check: finding for finding in validate(HERE / "robosuite/demo.hdf5").findings}
    assert set(found) == {"env_args", "arrays", "samples"}  # what robomimic's converters add
    assert "dataset_states_to_obs.py" in found["arrays"].fix


def test_zarr_2_with_a_codec_that_may_be_missing(tmp_path: Path) -> None:
    path = HERE / "zarr2/umi.zarr.zip"
    with np.load(HERE / "zarr2/umi.npz") as theirs:
        expected: dict[str, Any] = dict(theirs)
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        assert "camera0_rgb: is compressed with the codec imagecodecs_jpegxl" in summary(path)
        (fault,) = [f for f in validate(path).findings if f.level == "error"]
        assert fault.fix == "pip install imagecodecs"
        advice = r"pip install imagecodecs; leave_out=\[camera0_rgb\] leaves it out"
        with pytest.raises(PcmError, match=advice):
            convert(path, tmp_path / "a.zarr")
        expected.pop("camera0_rgb")
        convert(path, tmp_path / "a.zarr", leave_out=["camera0_rgb"])
        assert open_replay(path, ["robot0_eef"]).n_steps == 24  # training on the numbers
    else:
        convert(path, tmp_path / "a.zarr")
    buffer = open_replay(tmp_path / "a.zarr")
    np.testing.assert_array_equal(buffer.episode_ends, expected.pop("episode_ends"))
    assert set(buffer.arrays) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(buffer.arrays[name], values, strict=True)


def test_every_real_file_goes_into_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted through each format and back to zarr, numbers are what they are directly."""
    for module in ("h5py", "pyarrow", "minari"):
        pytest.importorskip(module)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    sources = {
        "lerobot": ({"task_index"}, HERE / "lerobot/v3.0"),
        "minari": (set(), HERE / "minari/pcm/goal-v0"),
        "robosuite": (set(), HERE / "robosuite/demo.hdf5"),
    }
    for name, (out, source) in sources.items():
        convert(source, tmp_path / f"{name}.zarr", leave_out=list(out))
        direct = open_replay(tmp_path / f"{name}.zarr")
        for target in (f"{name}_b.hdf5", f"{name}_c", f"minari:{name}-v0"):
            place = target if target.startswith("minari:") else tmp_path / target
            convert(source, place, leave_out=list(out), fps=10)
            kinds = {"images": "all"} if target.endswith("_c") else {}
            convert(place, tmp_path / f"{name}_back.zarr", **kinds)  # type: ignore[arg-type]
            back = open_replay(tmp_path / f"{name}_back.zarr")
            assert back.episode_ends.tolist() == direct.episode_ends.tolist()
            assert set(back.arrays) == set(direct.arrays), target
            for key, values in direct.arrays.items():
                np.testing.assert_array_equal(back.arrays[key], values, err_msg=key)
            for left in tmp_path.glob(f"{name}_back.zarr"):
                left.rename(tmp_path / f"{name}_{target.replace(':', '_')}.done")
