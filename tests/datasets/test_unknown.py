"""Files and folders that no reader takes are named for what they are, with what to do."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, action=np.ones(3))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def checkpoint() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return file.getvalue()


FILES = [
    ("a.zarr.zip", LFS, "is a Git LFS pointer", "git lfs pull"),
    ("a.hdf5", LFS, "is a Git LFS pointer", "git lfs pull"),
    ("a.bin", LFS, "is a Git LFS pointer", "git lfs pull"),
    ("a.pkl", b"\x80\x04\x95.", "is a Python pickle", "not opened"),
    ("a.dat", b"\x80\x02}q\x00.", "is a Python pickle", "not opened"),
    ("a.pkl", b"(dp0\n.", "is a Python pickle", "not opened"),
    ("a.pt", checkpoint(), "is a Python pickle", "not opened"),
    ("a.npz", npz(), "nothing says where episodes end; there are action", "add it"),
    ("a.npy", npy(), "is one NumPy array", "write_replay"),
    ("a.mcap", b"\x89MCAP0\r\n" + bytes(9), "is an MCAP log", "convert it to LeRobot"),
    ("a.bag", b"#ROSBAG V2.0\n", "is a ROS bag", "convert it to LeRobot"),
    ("a.db3", b"SQLite format 3\0" + bytes(9), "is an SQLite database", "convert it to LeRobot"),
    ("a.tfrecord-00000-of-00002", bytes(30), "is RLDS", "convert it to LeRobot"),
    ("a.parquet", b"PAR1" + bytes(9), "is one parquet file", "name the LeRobot folder"),
    ("a.tar.gz", b"\x1f\x8b\x08", "is compressed with gzip", "unpack it"),
    ("a.tar", bytes(257) + b"ustar" + bytes(99), "is a tar archive", "unpack it"),
    ("a.csv", b"a,b\n1,2\n", "is a text file", "write_replay"),
    ("a.mp4", bytes(4) + b"ftyp", "is a video", "name the folder"),
    ("a.hdf5", b"<!DOCTYPE html><html>", "is a web page", "download the file itself"),
]


def refused(path: Path, found: str, fix: str) -> None:
    uses: list[Callable[[Path], object]] = [summary, open_demonstrations]
    for use in [*uses, lambda path: convert(path, path.parent / "out.zarr")]:
        with pytest.raises(PcmError) as caught:
            use(path)
        assert found in str(caught.value)
        assert fix in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    (finding,) = validate(path).findings
    assert found in finding.message


@pytest.mark.parametrize(("name", "content", "found", "fix"), FILES)
def test_files(tmp_path: Path, name: str, content: bytes, found: str, fix: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, found, fix)


FOLDERS = [
    ({}, "is an empty folder", "check the path"),
    ({"x.tfrecord-00000-of-00001": b""}, "is RLDS", "convert it to LeRobot"),
    ({"features.json": b"{}", "dataset_info.json": b"{}"}, "is RLDS", "convert it to LeRobot"),
    ({"1.0.0/features.json": b"{}", "1.0.0/dataset_info.json": b"{}"}, "is RLDS", "convert it"),
    ({"state.json": b"{}", "data-0.arrow": b""}, "Hugging Face datasets", "convert it to LeRobot"),
    ({"metadata.yaml": b"", "a_0.db3": b""}, "is a ROS 2 bag", "convert it to LeRobot"),
    ({"a.mcap": b""}, "is a folder of MCAP logs", "convert it to LeRobot"),
    ({"episode_0.hdf5": b"", "episode_1.hdf5": b""}, "2 HDF5 files", "as data/demo_i of one file"),
    ({"a.pkl": b""}, "Python pickles", "load it where you trust it"),
    ({"b/meta/info.json": b"{}"}, "has no zarr group at its root", "name "),
    ({"me/b/data/metadata.json": b"{}"}, "has no zarr group at its root", "name "),
    ({"x.hdf5": b""}, "is a folder, and has no zarr group at its root", "name "),
]


@pytest.mark.parametrize(("files", "found", "fix"), FOLDERS)
def test_folders(tmp_path: Path, files: dict[str, bytes], found: str, fix: str) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    refused(path, found, fix)


def test_a_store_that_was_zipped_with_its_folder(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", [{"action": np.ones((3, 2))}])
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for file in sorted((tmp_path / "a.zarr").rglob("*")):
            archive.write(file, Path("a.zarr") / file.relative_to(tmp_path / "a.zarr"))
    refused(tmp_path / "b.zip", "holds its store in the folder a.zarr/", "zip the contents of")


def test_what_is_not_known_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"???")
    with pytest.raises(PcmError, match=r"expected one of .*zarr"):
        summary(tmp_path / "a.xyz")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes").write_text(json.dumps({}))
    with pytest.raises(PcmError, match="is no set of demonstrations that is known"):
        summary(tmp_path / "b")
    with pytest.raises(PcmError, match="does not exist; check the path"):
        summary(tmp_path / "none")
