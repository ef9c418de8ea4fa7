"""Conversion among replay buffers, robomimic's HDF5 and LeRobot's folders, compared exactly."""

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError

RNG = np.random.default_rng(0)
LENGTHS = (7, 1, 12)


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip(
        "h5py", reason="h5py is not installed: pip install 'pcm_policy[convert]'"
    )


@pytest.fixture
def parquet() -> Any:
    reason = "pip install 'pcm_policy[convert]'"
    pytest.importorskip("pyarrow", reason=reason)
    return pytest.importorskip("pyarrow.parquet", reason=reason)


def episode(steps: int) -> dict[str, np.ndarray]:
    return {
        "keypoint": RNG.normal(size=(steps, 9, 2)).astype(np.float32),
        "state": RNG.normal(size=(steps, 5)),
        "action": RNG.normal(size=(steps, 2)).astype(np.float32),
        "n_contacts": RNG.integers(0, 9, (steps, 1)),
        "flag": RNG.random(steps) < 0.5,
        "level": RNG.integers(0, 200, steps).astype(np.uint8),
    }


@pytest.fixture
def buffer(tmp_path: Path) -> Path:
    path = tmp_path / "a.zarr"
    attrs = {"recorded": "by hand", "version": [1, 2]}
    write_replay(path, [episode(n) for n in LENGTHS], attrs=attrs)
    return path


def same(a: Path, b: Path) -> None:
    """Every array, its type and shape, the episodes and the attributes."""
    first, second = open_replay(a), open_replay(b)
    assert first.episode_ends.tolist() == second.episode_ends.tolist()
    assert set(first.arrays) == set(second.arrays)
    for key, values in first.arrays.items():
        assert values.dtype == second.arrays[key].dtype, key
        np.testing.assert_array_equal(values, second.arrays[key], strict=True)
    extra = {"pcm_policy"}
    assert {k: v for k, v in first.attrs.items() if k not in extra} == {
        k: v for k, v in second.attrs.items() if k not in extra
    }


@pytest.mark.parametrize("name", ["b.zarr", "b.zarr.zip"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_to_zarr(buffer: Path, tmp_path: Path, name: str, zarr_format: Any) -> None:
    found = convert(buffer, tmp_path / name, zarr_format=zarr_format)
    assert (found.source, found.target, found.lost) == ("zarr", "zarr", ())
    same(buffer, tmp_path / name)
    if name == "b.zarr":
        assert zarr.open_group(tmp_path / name, mode="r").metadata.zarr_format == zarr_format


def test_zarr_by_way_of_robomimic(buffer: Path, tmp_path: Path, h5py: Any) -> None:
    found = convert(buffer, tmp_path / "b.hdf5")
    assert found.lost == ()
    assert any("no rewards" in note for note in found.notes)
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert list(file["data"]) == ["demo_0", "demo_1", "demo_2"]
        assert file["data/demo_2"].attrs["num_samples"] == 12
        assert file["data"].attrs["total"] == sum(LENGTHS)
        assert file["data/demo_0/actions"].shape == (7, 2)
        assert file["data/demo_0/obs/keypoint"].shape == (7, 9, 2)
        assert "env_kwargs" in json.loads(file["data"].attrs["env_args"])
    convert(tmp_path / "b.hdf5", tmp_path / "c.zarr")
    same(buffer, tmp_path / "c.zarr")


def test_zarr_by_way_of_lerobot(buffer: Path, tmp_path: Path, parquet: Any) -> None:
    with pytest.raises(PcmError, match="does not say its rate: give fps"):
        convert(buffer, tmp_path / "b")
    convert(buffer, tmp_path / "b", fps=10)
    info = json.loads((tmp_path / "b/meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 10, 20)
    assert info["features"]["keypoint"]["shape"] == [18]
    table = parquet.read_table(tmp_path / "b/data/chunk-000/file-000.parquet").to_pydict()
    assert table["episode_index"] == [0] * 7 + [1] + [2] * 12
    assert table["frame_index"][8:] == list(range(12))
    assert table["index"] == list(range(20))
    np.testing.assert_allclose(table["timestamp"][8:], np.arange(12) / 10, atol=1e-6)
    stats = json.loads((tmp_path / "b/meta/stats.json").read_text())
    state = open_replay(buffer).arrays["state"]
    for key, expected in (("mean", state.mean(0)), ("std", state.std(0)), ("min", state.min(0))):
        np.testing.assert_allclose(stats["state"][key], expected, rtol=1e-12)
    convert(tmp_path / "b", tmp_path / "c.zarr")
    same(buffer, tmp_path / "c.zarr")


FORMATS = {
    "zarr 2": ("{}.zarr", {"zarr_format": 2}),
    "zarr 3": ("{}.zarr.zip", {"zarr_format": 3}),
    "robomimic": ("{}.hdf5", {}),
    "lerobot v3.0": ("{}", {"lerobot_version": "v3.0"}),
    "lerobot v2.1": ("{}_old", {"lerobot_version": "v2.1"}),
    "minari": ("minari:{}-v0", {}),
}


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_every_pair_and_back(
    buffer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    second: str,
    request: Any,
) -> None:
    """zarr -> first -> second -> first -> zarr: every array, type, shape, episode, attribute."""
    if {"robomimic", "minari"} & {first, second}:
        request.getfixturevalue("h5py")
    if any("lerobot" in name for name in (first, second)):
        request.getfixturevalue("parquet")
    if "minari" in (first, second):
        pytest.importorskip("minari", reason="pip install 'pcm_policy[minari]'")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    here: str | Path = buffer
    for number, name in enumerate((first, second, first)):
        pattern, settings = FORMATS[name]
        target = pattern.format(f"x{number}")
        place = target if target.startswith("minari:") else tmp_path / target
        found = convert(here, place, fps=10 if number == 0 else None, **settings)
        assert found.lost == ()
        assert set(found.fields) == set(open_replay(buffer).arrays)
        here = place
    convert(here, tmp_path / "last.zarr")
    same(buffer, tmp_path / "last.zarr")


@pytest.fixture
def demonstrations(tmp_path: Path, h5py: Any) -> Path:
    """A file as robomimic and robosuite write it; demonstration 10 comes after 2."""
    path = tmp_path / "low_dim.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        data.attrs["env_args"] = json.dumps(env)
        data.attrs["total"] = 15
        for number, steps in ((10, 6), (1, 4), (2, 5)):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = "<mujoco/>"
            demo["actions"] = RNG.uniform(-1, 1, (steps, 7))
            demo["rewards"], demo["dones"] = np.zeros(steps), np.arange(steps) == steps - 1
            demo["states"] = RNG.normal(size=(steps, 32))
            for group in ("obs", "next_obs"):
                demo[f"{group}/object"] = RNG.normal(size=(steps, 10))
                demo[f"{group}/actions"] = RNG.normal(size=(steps, 3))  # an unlucky name
            demo["action_dict/rel_pos"] = RNG.normal(size=(steps, 3)).astype(np.float32)
        file["mask/train"] = np.array([b"demo_10", b"demo_1"])
        file["mask/valid"] = np.array([b"demo_2"])
    return path


def contents(h5py: Any, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda n, x: found.update({n: x[()]}) if hasattr(x, "shape") else None)
        found["env_args"] = json.loads(file["data"].attrs["env_args"])
        found["samples"] = {k: v.attrs["num_samples"] for k, v in file["data"].items()}
    return found


@pytest.mark.parametrize("middle", ["m.zarr", "m.zarr.zip", "m", "m.hdf5"])
def test_robomimic_round_trips(
    demonstrations: Path, tmp_path: Path, h5py: Any, middle: str, request: Any
) -> None:
    if middle == "m":
        request.getfixturevalue("parquet")
    found = convert(demonstrations, tmp_path / middle)
    lost = ("demo_1.attrs[model_file] (and of the other demonstrations)",)
    assert found.lost == (() if middle == "m.hdf5" else lost)
    convert(tmp_path / middle, tmp_path / "back.hdf5")
    if middle == "m.hdf5":
        with h5py.File(tmp_path / "back.hdf5") as file:
            assert file["data/demo_2"].attrs["model_file"] == "<mujoco/>"
    before, after = contents(h5py, demonstrations), contents(h5py, tmp_path / "back.hdf5")
    assert set(before) == set(after)
    for name, values in before.items():
        if isinstance(values, np.ndarray):
            assert values.dtype == after[name].dtype, name
        np.testing.assert_equal(after[name], values)
    if middle == "m":
        assert json.loads((tmp_path / "m/meta/info.json").read_text())["fps"] == 20
    if middle == "m.zarr":
        buffer = open_replay(tmp_path / middle)
        assert buffer.lengths.tolist() == [4, 5, 6]  # by number, as robomimic sorts
        assert {"object", "actions", "obs.actions", "next_obs.object"} <= set(buffer.arrays)


def lerobot(path: Path, parquet: Any, version: str = "v3.0") -> dict[str, Any]:
    """A folder as LeRobot 0.4.4 writes it, with a video, two tasks, two files, irregular times."""
    import pyarrow as pa

    steps = {0: 4, 1: 3, 2: 5}
    rows: dict[str, Any] = {"observation.state": [], "action": [], "matrix": [], "next.reward": []}
    index = {k: [] for k in ("timestamp", "frame_index", "episode_index", "index", "task_index")}
    for number, count in steps.items():
        for i in range(count):
            rows["observation.state"].append(RNG.normal(size=2).astype(np.float32).tolist())
            rows["action"].append(RNG.normal(size=3).astype(np.float32).tolist())
            rows["matrix"].append(RNG.normal(size=(2, 2)).tolist())
            rows["next.reward"].append(float(np.float32(RNG.normal())))
            for key, value in zip(
                index,
                (i / 30 + 0.01 * number, i, number, len(index["index"]), number % 2),
                strict=True,
            ):
                index[key].append(value)
    types = {
        "observation.state": pa.list_(pa.float32(), 2),
        "action": pa.list_(pa.float32()),
        "matrix": pa.list_(pa.list_(pa.float64())),
        "next.reward": pa.float32(),
        "timestamp": pa.float32(),
    }
    table = pa.table({k: pa.array(v, types.get(k, pa.int64())) for k, v in (rows | index).items()})
    old = version == "v2.1"
    (path / "data/chunk-000").mkdir(parents=True)
    (path / "meta").mkdir()
    cuts = [(0, 4), (4, 3), (7, 5)] if old else [(0, 7), (7, 5)]
    for i, (start, count) in enumerate(cuts):
        name = f"episode_{i:06d}" if old else f"file-{i:03d}"
        parquet.write_table(table.slice(start, count), path / f"data/chunk-000/{name}.parquet")
    tasks = ["push the T", "pull it"]
    if old:
        text = "\n".join(json.dumps({"task_index": i, "task": t}) for i, t in enumerate(tasks))
        (path / "meta/tasks.jsonl").write_text(text + "\n")
    else:
        named = pa.table({"task_index": [0, 1], "__index_level_0__": tasks})
        parquet.write_table(named, path / "meta/tasks.parquet")
    shapes = {"observation.state": [2], "action": [3], "matrix": [2, 2], "next.reward": [1]}
    features = {
        k: {"dtype": "float64" if k == "matrix" else "float32", "shape": v, "names": None}
        for k, v in shapes.items()
    }
    features["action"]["names"] = ["x", "y", "z"]
    features |= {k: {"dtype": "int64", "shape": [1], "names": None} for k in index}
    features["timestamp"]["dtype"] = "float32"
    features["observation.images.top"] = {"dtype": "video", "shape": [96, 96, 3], "names": None}
    info = {"codebase_version": version, "fps": 30, "robot_type": "so100", "features": features}
    (path / "meta/info.json").write_text(json.dumps(info))
    return table.to_pydict()


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("middle", ["m.zarr", "m.hdf5", "m"])
def test_lerobot_round_trips(
    tmp_path: Path, parquet: Any, middle: str, version: str, request: Any
) -> None:
    if middle == "m.hdf5":
        request.getfixturevalue("h5py")
    before = lerobot(tmp_path / "a", parquet, version)
    found = convert(tmp_path / "a", tmp_path / middle)
    decodes = "images=[observation.images.top] decodes it"
    assert found.lost == (f"observation.images.top (video): {decodes}",)
    convert(tmp_path / middle, tmp_path / "back")
    after = parquet.read_table(tmp_path / "back/data/chunk-000/file-000.parquet").to_pydict()
    before["matrix"] = [[*rows[0], *rows[1]] for rows in before["matrix"]]  # written flat
    assert set(after) == set(before)
    for name, values in before.items():
        assert after[name] == values, name
    info = json.loads((tmp_path / "back/meta/info.json").read_text())
    assert info["robot_type"] == "so100"
    assert info["features"]["action"]["names"] == ["x", "y", "z"]
    tasks = parquet.read_table(tmp_path / "back/meta/tasks.parquet").to_pydict()
    assert tasks["__index_level_0__"] == ["push the T", "pull it"]
    convert(tmp_path / "back", tmp_path / "last.zarr")
    assert open_replay(tmp_path / "last.zarr").arrays["matrix"].shape == (12, 2, 2)


def test_names_and_what_is_left_out(buffer: Path, tmp_path: Path) -> None:
    rename = {"state": "observation.state"}
    found = convert(buffer, tmp_path / "b.zarr", rename=rename, leave_out=["keypoint"])
    assert "observation.state" in found.fields
    assert found.lost == ("keypoint",)
    assert "not converted: keypoint" in found.describe()
    with pytest.raises(PcmError, match="has no array stat: it has"):
        convert(buffer, tmp_path / "c.zarr", rename={"stat": "x"})
    with pytest.raises(PcmError, match="gives two arrays one name"):
        convert(buffer, tmp_path / "c.zarr", rename={"state": "action"})
    with pytest.raises(PcmError, match="exists already"):
        convert(buffer, tmp_path / "b.zarr")
    with pytest.raises(PcmError, match="name the target"):
        convert(buffer, tmp_path / "c.csv")
    with pytest.raises(PcmError, match="does not exist"):
        convert(tmp_path / "none", tmp_path / "c.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Cameras of bytes, of whole numbers in floats (as Push-T's) and of one channel."""
    rng = np.random.default_rng(3)
    episodes = []
    for steps in (3, 4):
        frames = rng.integers(0, 256, (steps, 96, 80, 3))
        found = {"action": rng.normal(size=(steps, 2)), "top": frames.astype(np.uint8)}
        found["img"] = frames[:, ::-1].astype(np.float32)
        episodes.append(found | {"grey": frames[..., :1].astype(np.uint8)})
    write_replay(tmp_path / "pictures.zarr", episodes)
    return tmp_path / "pictures.zarr"


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_images_survive_lerobot(pictures: Path, tmp_path: Path, parquet: Any, version: Any) -> None:
    names = {k: f"observation.images.{k}" for k in ("top", "img", "grey")}
    target = tmp_path / "b"
    convert(pictures, target, fps=10, rename=names, lerobot_version=version)
    info = json.loads((target / "meta/info.json").read_text())
    assert info["features"]["observation.images.top"] == {
        "dtype": "image",
        "shape": [96, 80, 3],
        "names": ["height", "width", "channel"],
    }
    back = {v: k for k, v in names.items()}
    convert(target, tmp_path / "back.zarr", rename=back, images="all")
    same(pictures, tmp_path / "back.zarr")
    if version == "v3.0":
        frames = open_replay(pictures).arrays["top"][:] / 255.0
        found = json.loads((target / "meta/stats.json").read_text())["observation.images.top"]
        assert np.shape(found["mean"]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(found["mean"]), frames.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(np.ravel(found["std"]), frames.std((0, 1, 2)), rtol=1e-6)
        assert found["count"] == [7]


def test_what_is_no_image_is_named(tmp_path: Path, parquet: Any) -> None:
    wide = {"img": np.full((3, 96, 96, 3), 0.5, np.float32), "action": np.zeros((3, 2))}
    write_replay(tmp_path / "a.zarr", [wide])
    with pytest.raises(PcmError, match=r"img: is no image of whole numbers.*leave_out=\[img\]"):
        convert(tmp_path / "a.zarr", tmp_path / "b", fps=10)
    wide = {"cloud": np.zeros((3, 2000, 3), np.float32), "action": np.zeros((3, 2))}
    write_replay(tmp_path / "c.zarr", [wide])
    with pytest.raises(PcmError, match=r"cloud: has steps of \(2000, 3\).*leave_out=\[cloud\]"):
        convert(tmp_path / "c.zarr", tmp_path / "b", fps=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "c.zarr"]
    convert(tmp_path / "a.zarr", tmp_path / "b", fps=10, leave_out=["img"])


def test_damaged_sources(tmp_path: Path, h5py: Any, parquet: Any, demonstrations: Path) -> None:
    with h5py.File(demonstrations, "r+") as file:
        del file["data/demo_2/rewards"]
    lacks = r"demo_2/rewards: missing, demo_1 has it; .*leave_out=\[rewards\] leaves it out"
    with pytest.raises(PcmError, match=lacks):
        convert(demonstrations, tmp_path / "b.zarr")
    demonstrations.write_bytes(demonstrations.read_bytes()[:3000])
    with pytest.raises(PcmError, match="cannot be opened"):
        convert(demonstrations, tmp_path / "b.zarr")
    lerobot(tmp_path / "a", parquet)
    (tmp_path / "a/data/chunk-000/file-000.parquet").unlink()
    gone = "episode 0 is missing: 1 episodes are numbered up to 2; download the missing"
    with pytest.raises(PcmError, match=gone):
        convert(tmp_path / "a", tmp_path / "b.zarr")
    (tmp_path / "a/data/chunk-000/file-001.parquet").write_bytes(b"PAR1 is this not")
    with pytest.raises(PcmError, match=r"file-001.parquet: cannot be read"):
        convert(tmp_path / "a", tmp_path / "b.zarr")
    (tmp_path / "a/meta/info.json").write_text('{"codebase_version": "v1.6"}')
    old = r"info\.json: has version v1.6; convert it with LeRobot to v3.0"
    with pytest.raises(PcmError, match=old):
        convert(tmp_path / "a", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_memory_does_not_grow_with_the_file(tmp_path: Path, h5py: Any, parquet: Any) -> None:
    """200 000 steps of 192 bytes, 38 MB, in 100 episodes, through all three formats and back."""

    def episodes() -> Any:
        rng = np.random.default_rng(1)
        for _ in range(100):
            yield {"state": rng.normal(size=(2000, 20)), "action": rng.normal(size=(2000, 4))}

    write_replay(tmp_path / "a.zarr", episodes())
    convert(tmp_path / "a.zarr", tmp_path / "warm", fps=10)  # imports and thread pools
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    convert(tmp_path / "a.zarr", tmp_path / "b.hdf5")
    convert(tmp_path / "b.hdf5", tmp_path / "c", fps=10)
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert spent < 20 << 10, f"{spent} kB"


OPENS = """
import sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
times = {"action": [0.0, 0.1, 0.2]}
data = LeRobotDataset("me/test", root=sys.argv[1], delta_timestamps=times)
assert data.num_episodes == 3 and data.num_frames == 20 and data.fps == 10
item = data[7]
assert item["observation.state"].shape == (5,) and item["action"].shape == (3, 2)
assert item["action_is_pad"].tolist() == [False, True, True] and item["task"] == "unnamed"
print(item["observation.state"].tolist(), data.meta.stats["action"]["mean"].tolist())
"""
UPGRADE = """
import runpy, sys
parent, folder = sys.argv[1:]
for place, root in (("scripts", folder), ("datasets.v30", parent)):  # 0.6.1, 0.4.4
    sys.argv[1:] = ["--repo-id=me/test", f"--root={root}", "--push-to-hub=false"]
    try:
        runpy.run_module(f"lerobot.{place}.convert_dataset_v21_to_v30", run_name="__main__")
        break
    except ImportError as error:
        missing = error
else:
    raise missing
"""


def in_lerobot(python: str, *words: str | Path) -> str:
    """Run LeRobot's Python; torchvision's operators are declared first where that is needed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd="/",  # the root's datasets would hide Hugging Face's
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_opens_what_is_written(
    lerobot_python: str, buffer: Path, tmp_path: Path, parquet: Any, version: Any
) -> None:
    """v3.0 as it is, v2.1 after LeRobot's own converter has made v3.0 of it."""
    target = tmp_path / "me/test"
    names = {"state": "observation.state"}
    convert(buffer, target, fps=10, rename=names, lerobot_version=version)
    if version == "v2.1":
        in_lerobot(lerobot_python, "-c", UPGRADE, tmp_path, target)
    line = in_lerobot(lerobot_python, "-c", OPENS, target).strip().splitlines()[-1]
    state, mean = line.split("] [")
    arrays = open_replay(buffer).arrays
    np.testing.assert_allclose(json.loads(state + "]"), arrays["state"][7], rtol=1e-6)
    np.testing.assert_allclose(json.loads("[" + mean), arrays["action"].mean(0), rtol=1e-6)
    convert(target, tmp_path / "back.zarr", rename={"observation.state": "state"})
    if version == "v3.0":  # LeRobot's converter drops what it does not know, as shapes
        same(buffer, tmp_path / "back.zarr")


SEES = """
import sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("me/test", root=sys.argv[1])
item = data[4]["observation.images.top"]
assert item.shape == (3, 96, 80), item.shape
assert len(data.meta.camera_keys) == 3
assert data.meta.stats["observation.images.top"]["mean"].shape == (3, 1, 1)
print((item * 255).round().int().permute(1, 2, 0)[:2, :3].tolist())
"""


def test_lerobot_sees_the_images(
    lerobot_python: str, pictures: Path, tmp_path: Path, parquet: Any
) -> None:
    names = {k: f"observation.images.{k}" for k in ("top", "img", "grey")}
    convert(pictures, tmp_path / "me/test", fps=10, rename=names)
    log = in_lerobot(lerobot_python, "-c", SEES, tmp_path / "me/test")
    seen = json.loads(log.strip().splitlines()[-1])
    np.testing.assert_array_equal(seen, open_replay(pictures).arrays["top"][4][:2, :3])


def test_an_unknown_lerobot_version(buffer: Path, tmp_path: Path, parquet: Any) -> None:
    with pytest.raises(PcmError, match=r"lerobot_version=v1\.6: v3\.0 and v2\.1 can be written"):
        convert(buffer, tmp_path / "b", fps=10, lerobot_version="v1.6")  # type: ignore[arg-type]
