"""A data set in parts is one data set, and its manifest names what is not as it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.cli.main import run_command
from pcm_policy.datasets.formats.manifest import MANIFEST, read_manifest, verify, write_manifest
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.frames import open_frames
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError
from tests.training.small import assert_same, train

Episodes = list[dict[str, np.ndarray[Any, Any]]]


def episodes(path: Path) -> Episodes:
    buffer = open_replay(path)
    return [buffer.episode(i) for i in range(buffer.n_episodes)]


@pytest.fixture
def folder(demos: Path, tmp_path: Path) -> Path:
    """The demonstrations in three parts: zarr 2, zarr 3 and a zip."""
    found = episodes(demos)
    write_replay(tmp_path / "set/a.zarr", found[:2], attrs={"pcm_policy": {"fps": 10}})
    write_replay(tmp_path / "set/b.zarr", found[2:3], zarr_format=3)
    write_replay(tmp_path / "set/c.zarr.zip", found[3:])
    write_manifest(tmp_path / "set")
    return tmp_path / "set"


def test_it_is_one_data_set(demos: Path, folder: Path) -> None:
    assert source_format(folder).name == "parts"
    whole, found = open_replay(demos), open_demonstrations(folder)
    assert found.episode_ends.tolist() == whole.episode_ends.tolist()
    assert found.arrays.keys() == whole.arrays.keys()
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)
    recording = source_format(folder).read(folder)
    assert recording.n_episodes == 6
    assert recording.meta["fps"] == 10
    for one, other in zip(recording.read(), episodes(demos), strict=True):
        for name, values in other.items():
            np.testing.assert_array_equal(one[name], values)


def test_training_on_parts_is_training_on_the_whole(
    demos: Path, folder: Path, tmp_path: Path
) -> None:
    run = ["train.steps=6"]
    one = train(demos, tmp_path / "one", *run)
    assert_same(train(folder, tmp_path / "parts", *run), one)


def test_the_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / MANIFEST).unlink()
    run_command("data manifest", argv=[str(folder)])
    said = capsys.readouterr().out
    assert "b.zarr: zarr, 1 episodes" in said
    assert f"{folder}: 3 parts, 6 episodes" in said
    with pytest.raises(SystemExit):
        run_command("data manifest", argv=[str(folder)])
    assert "overwrite=true renews" in capsys.readouterr().err
    run_command("data verify", argv=[str(folder)])
    assert "every file is as its manifest says" in capsys.readouterr().out
    run_command("data info", argv=[str(folder)])
    said = capsys.readouterr().out
    assert "6 episodes" in said
    assert "part c.zarr.zip: zarr, 3 episodes" in said
    flip(folder / "c.zarr.zip")
    with pytest.raises(SystemExit) as ended:
        run_command("data verify", argv=[str(folder)])
    assert ended.value.code == 1
    assert f"{folder}: c.zarr.zip is damaged" in capsys.readouterr().out


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def chunk(folder: Path) -> Path:
    return next(f for f in sorted((folder / "a.zarr/data/action").iterdir()) if f.name[0] != ".")


def test_every_damage_is_named(folder: Path) -> None:
    assert verify(folder) == []
    file = chunk(folder)
    place, whole = file.relative_to(folder).as_posix(), file.read_bytes()
    flip(file)
    assert verify(folder) == [
        f"{folder}: {place} is damaged: another checksum than in the manifest"
    ]
    file.write_bytes(whole[:-1])
    (found,) = verify(folder)
    assert f"{place} has {len(whole) - 1} bytes, the manifest says {len(whole)}" in found
    with pytest.raises(PcmError, match=rf"{place}: has \d+ bytes.*copy it again"):
        open_demonstrations(folder)
    file.unlink()
    assert verify(folder) == [f"{folder}: {place} is missing"]
    file.write_bytes(whole)
    (folder / "b.zarr/more").write_text("x")
    assert verify(folder) == [f"{folder}: b.zarr/more is not in the manifest"]
    (folder / "b.zarr/more").unlink()
    shutil.rmtree(folder / "b.zarr")
    assert all("b.zarr/" in line and "is missing" in line for line in verify(folder))
    with pytest.raises(PcmError, match=r"b\.zarr/.*: is missing"):
        source_format(folder).read(folder)


def test_parts_that_do_not_fit_are_named(demos: Path, tmp_path: Path) -> None:
    found = episodes(demos)
    write_replay(tmp_path / "a.zarr", found[:2])
    write_replay(tmp_path / "b.zarr", [{**e, "state": e["state"][:, :3]} for e in found[2:]])
    write_manifest(tmp_path)
    with pytest.raises(PcmError, match=r"b\.zarr: state: holds .*, the first part holds"):
        open_demonstrations(tmp_path)
    recording = source_format(tmp_path).read(tmp_path)
    assert set(recording.fields) == {"keypoint", "action"}
    assert "state" in recording.faults
    assert open_demonstrations(tmp_path, ["action"]).n_episodes == 6


def test_parts_of_different_rates_are_refused(demos: Path, tmp_path: Path) -> None:
    for name, rate in (("a", 10), ("b", 20)):
        path = tmp_path / f"{name}.zarr"
        write_replay(path, episodes(demos)[:1], attrs={"pcm_policy": {"fps": rate}})
    write_manifest(tmp_path)
    with pytest.raises(PcmError, match="parts of different rates: 10, 20"):
        open_demonstrations(tmp_path)


def test_what_is_no_part_is_refused(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="holds no parts"):
        write_manifest(tmp_path)
    with pytest.raises(PcmError, match="is no folder"):
        write_manifest(tmp_path / "nothing")
    with pytest.raises(PcmError, match=r"pcm-data manifest .* makes it"):
        verify(tmp_path)
    write_replay(tmp_path / "a.zarr", episodes(demos)[:1])
    (tmp_path / "notes.txt").write_text("made on Monday")
    with pytest.raises(PcmError, match=r"notes\.txt"):
        write_manifest(tmp_path)
    assert not (tmp_path / MANIFEST).exists()


PART = {"format": "zarr", "episodes": 1, "files": {"a": [1, "0"]}}
TEXTS = [
    *('{"manifest": 1}', '{"manifest": 2, "parts": {}}', '{"manifest": 1, "parts": []}'),
    '{"manifest": 1, "parts": {"a": {}}}',
    *(
        json.dumps({"manifest": 1, "parts": parts})
        for parts in (
            {"../a": PART},
            {"..": PART},
            {"a": PART | {"files": {"../../b": [1, "0"]}}},
            {"a": PART | {"files": {"/b": [1, "0"]}}},
            {"a": PART | {"files": {"b": ["1", "0"]}}},
            {"a": PART | {"files": {"b": [1]}}},
            {"a": PART | {"files": {}}},
            {"a": PART | {"episodes": "many"}},
        )
    ),
    '{"manifest": ' + "[" * 100_000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_manifest_that_is_not_what_it_should_be_is_one_line(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    for read in (read_manifest, verify, open_demonstrations):
        with pytest.raises(PcmError) as caught:
            read(folder)  # type: ignore[operator]
        assert "\n" not in str(caught.value)
        assert MANIFEST in str(caught.value)


def test_images_of_parts_are_mapped_where_they_are(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 10, 3), np.uint8)
    (tmp_path / "set").mkdir()
    for name, some in (("a", images[:4]), ("b", images[4:])):
        with h5py.File(tmp_path / f"set/{name}.hdf5", "w") as file:
            file["data/demo_0/actions"] = np.ones((len(some), 1))
            file["data/demo_0/obs/img"] = some
            file[f"mask/{name}"] = np.array([b"demo_0"])
    write_manifest(tmp_path / "set")
    frames = open_frames(tmp_path / "set", "img", (8, 10), tmp_path / "frames")
    np.testing.assert_array_equal(frames.take(np.arange(9)), images)
    assert not (tmp_path / "frames").exists()
    with pytest.raises(PcmError, match=r"b\.hdf5.*mask/a"):
        open_demonstrations(tmp_path / "set", ["actions"], "a")


def test_images_of_parts_are_decoded_into_one_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 10, 3), np.uint8)
    for name, some in (("a", images[:4]), ("b", images[4:])):
        episode = {"img": some, "action": np.ones((len(some), 1))}
        write_replay(tmp_path / f"set/{name}.zarr", [episode])
    write_manifest(tmp_path / "set")
    frames = open_frames(tmp_path / "set", "img", (8, 10), tmp_path / "frames")
    np.testing.assert_array_equal(frames.take(np.arange(9)), images)
    assert len(list((tmp_path / "frames").glob("*.frames"))) == 1
