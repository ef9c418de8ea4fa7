"""HDF5 files of other projects, made from their documented layouts: ALOHA, ManiSkill, D4RL.

None of these projects' recorders runs here (they need robots, a GPU or old packages), so the files
are written as their documentation says, with h5py and, for pictures, the encoder that they use.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install '.[convert]'")

from pcm_policy.datasets.convert import convert  # noqa: E402
from pcm_policy.datasets.doctor.report import summary, validate  # noqa: E402
from pcm_policy.datasets.formats.registry import source_format  # noqa: E402
from pcm_policy.datasets.formats.replay import open_replay  # noqa: E402
from pcm_policy.datasets.frames import open_frames  # noqa: E402
from pcm_policy.datasets.open import open_demonstrations  # noqa: E402
from pcm_policy.datasets.usual import usual_fields  # noqa: E402
from pcm_policy.errors import PcmError  # noqa: E402

RNG = np.random.default_rng(0)
LENGTHS = (6, 4, 9)


def put(group: Any, arrays: dict[str, Any]) -> None:
    for name, values in arrays.items():
        group[name] = values


def joints(n: int) -> np.ndarray:
    return RNG.normal(size=(n, 14)).astype(np.float32).cumsum(axis=0)


def pictures(n: int) -> np.ndarray:
    """Smooth pictures, so that JPEG changes them little, with colours that differ."""
    ramp = np.linspace(0, 200, 24)[None, :, None]
    colour = np.array([1.0, 0.5, 0.1])
    return np.stack([np.tile(ramp * colour + k, (16, 1, 1)) for k in range(n)]).astype(np.uint8)


def compressed(frames: np.ndarray) -> np.ndarray:
    """As Mobile ALOHA stores frames: OpenCV's JPEG, padded with zeros to the longest."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed: pip install '.[pusht]'")
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for frame in frames]
    found = np.zeros((len(coded), max(map(len, coded))), np.uint8)
    for row, data in zip(found, coded, strict=True):
        row[: len(data)] = data
    return found


def aloha(path: Path, jpeg: bool = False) -> list[dict[str, np.ndarray]]:
    path.mkdir()
    made = []
    for number, n in enumerate(LENGTHS):
        episode = {
            "action": joints(n),
            "observations/qpos": joints(n),
            "observations/qvel": joints(n),
            "observations/images/top": pictures(n),
        }
        made.append(dict(episode))
        if jpeg:
            episode["observations/images/top"] = compressed(pictures(n))
        with h5py.File(path / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = not jpeg
            put(file, episode)
            if jpeg:
                file["compress_len"] = np.ones((1, n))
    return made


def maniskill(path: Path) -> list[dict[str, np.ndarray]]:
    made = []
    with h5py.File(path, "w") as file:
        for number, n in reversed(list(enumerate(LENGTHS))):  # its order is that of the numbers
            episode = {
                "actions": joints(n),
                "obs/agent/qpos": joints(n + 1),
                "obs/sensor_data/base_camera/rgb": pictures(n + 1),
                "env_states/actors/cube": joints(n + 1),
                "terminated": np.arange(n) == n - 1,
                "success": np.arange(n) == n - 1,
            }
            put(file.create_group(f"traj_{number}"), episode)
            made.insert(0, episode)
    about = {"env_info": {"env_id": "PickCube-v1", "env_kwargs": {}}, "episodes": []}
    about["env_info"]["env_kwargs"]["sim_config"] = {"control_freq": 20}  # type: ignore[call-overload]
    path.with_suffix(".json").write_text(json.dumps(about))
    return made


def d4rl(path: Path) -> dict[str, np.ndarray]:
    n = sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    flat = {
        "observations": joints(n),
        "actions": joints(n),
        "rewards": np.ones(n),
        "terminals": np.arange(n) == ends[0],
        "timeouts": np.arange(n) == ends[1],  # the last episode is cut off by the file's end
        "infos/qpos": joints(n),
        "metadata/policy/weight": np.ones((3, 3)),
    }
    with h5py.File(path, "w") as file:
        put(file, flat)
    return flat


@pytest.mark.parametrize("jpeg", [False, True])
def test_aloha(tmp_path: Path, jpeg: bool) -> None:
    path = tmp_path / "task"
    made = aloha(path, jpeg)
    assert source_format(path).name == source_format(path / "episode_2.hdf5").name == "aloha"
    text = summary(path)
    assert "3 episodes, 19 rows" in text
    assert ("no array: compress_len" in text) == jpeg
    assert validate(path).ok
    usual = usual_fields(path)
    assert usual.obs_fields == ("observation.qpos",)
    assert usual.cameras == {"observation.images.top": (16, 24)}
    convert(path, tmp_path / "a.zarr", fps=50)
    buffer = open_replay(tmp_path / "a.zarr")
    assert buffer.lengths.tolist() == list(LENGTHS)
    names = {"action": "action", "observation.qpos": "observations/qpos"}
    for name, place in names.items():
        expected = np.concatenate([episode[place] for episode in made])
        np.testing.assert_array_equal(buffer.arrays[name], expected)
        np.testing.assert_array_equal(open_demonstrations(path, [name]).arrays[name], expected)
    frames = open_frames(path, "observation.images.top", (16, 24), tmp_path / "cache")
    shown = frames.take(np.arange(sum(LENGTHS))).astype(int)
    recorded = np.concatenate([episode["observations/images/top"] for episode in made])
    assert np.abs(shown - recorded).max() <= (4 if jpeg else 0)
    np.testing.assert_array_equal(shown, buffer.arrays["observation.images.top"])


def test_one_file_of_aloha_is_one_episode(tmp_path: Path) -> None:
    aloha(tmp_path / "task")
    assert open_demonstrations(tmp_path / "task/episode_1.hdf5", ["action"]).lengths.tolist() == [4]


def test_aloha_says_which_file_is_at_fault(tmp_path: Path) -> None:
    aloha(tmp_path / "task", jpeg=True)
    with h5py.File(tmp_path / "task/episode_1.hdf5", "a") as file:
        file["observations/images/top"][2] = 7
        del file["observations/qvel"]
    with pytest.raises(PcmError, match=r"episode_1\.hdf5/observations/images/top: .*no picture"):
        convert(tmp_path / "task", tmp_path / "a.zarr")
    left = ["observation.images.top"]
    with pytest.raises(PcmError, match=r"episode_1\.hdf5/observations/qvel: is missing, the first"):
        convert(tmp_path / "task", tmp_path / "a.zarr", leave_out=left)
    convert(tmp_path / "task", tmp_path / "a.zarr", leave_out=[*left, "observation.qvel"])
    (tmp_path / "task/episode_1.hdf5").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(PcmError, match=r"Git LFS pointer"):
        open_demonstrations(tmp_path / "task", ["action"])


def test_maniskill(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.rgbd.h5"
    made = maniskill(path)
    assert source_format(path).name == "maniskill"
    text = summary(path)
    assert "3 episodes, 19 rows" in text
    assert "no array: the observation after the last action of every episode" in text
    assert validate(path).ok
    convert(path, tmp_path / "a.zarr")
    buffer = open_replay(tmp_path / "a.zarr")
    assert dict(buffer.attrs)["pcm_policy"]["fps"] == 20
    assert dict(buffer.attrs)["pcm_policy"]["maniskill"]["env_info"]["env_id"] == "PickCube-v1"
    for name, place in {
        "action": "actions",
        "observation.agent.qpos": "obs/agent/qpos",
        "observation.sensor_data.base_camera.rgb": "obs/sensor_data/base_camera/rgb",
        "env_states.actors.cube": "env_states/actors/cube",
        "success": "success",
    }.items():
        expected = np.concatenate([e[place][:n] for e, n in zip(made, LENGTHS, strict=True)])
        np.testing.assert_array_equal(buffer.arrays[name], expected)
    usual = usual_fields(path)
    assert usual.obs_fields == ("observation.agent.qpos",)
    assert usual.cameras == {"observation.sensor_data.base_camera.rgb": (16, 24)}
    path.with_suffix(".json").write_text("[1]")
    with pytest.raises(PcmError, match=r"trajectory\.rgbd\.json: file: is no JSON object"):
        summary(path)


def test_d4rl(tmp_path: Path) -> None:
    path = tmp_path / "door.hdf5"
    flat = d4rl(path)
    assert source_format(path).name == "d4rl"
    text = summary(path)
    assert "3 episodes, 19 rows" in text
    assert "no array: metadata.policy.weight (shape (3, 3) an episode" in text
    buffer = open_demonstrations(path)
    assert buffer.lengths.tolist() == list(LENGTHS)
    for name, place in {"observation": "observations", "info.qpos": "infos/qpos"}.items():
        np.testing.assert_array_equal(buffer.arrays[name], flat[place])
    usual = usual_fields(path)
    assert (usual.obs_fields, usual.action_field) == (("observation",), "action")
    with h5py.File(path, "a") as file:
        del file["timeouts"]
        file["timeouts"] = np.zeros(5, bool)
    with pytest.raises(PcmError, match=r"timeouts: has 5 rows where there are 19 steps"):
        summary(path)


@pytest.mark.parametrize("make", [maniskill, d4rl])
def test_damage_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        group = file.get("traj_1", file)
        del group["actions"]
        group["actions"] = np.zeros((0, 14), np.float32)
    with pytest.raises(PcmError, match="holds no steps"):
        open_demonstrations(tmp_path / "a.h5")
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(PcmError, match="cannot be opened"):
        open_demonstrations(tmp_path / "b.h5")
