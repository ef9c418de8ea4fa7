"""Camera frames from every kind of store, read row by row."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.frames import Frames, open_frames
from pcm_policy.errors import PcmError

h5py = pytest.importorskip("h5py")
SIZE = (8, 10)
LENGTHS = (5, 7, 4)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, *SIZE, 3), np.uint8) for n in LENGTHS]


def zarr_of(path: Path, images: list[Any], dtype: Any) -> Path:
    write_replay(path, [{"img": i.astype(dtype), "action": np.ones((len(i), 1))} for i in images])
    return path


def hdf5_of(path: Path, images: list[Any], **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for i, frames in enumerate(images):
            file[f"data/demo_{i}/actions"] = np.ones((len(frames), 1))
            file[f"data/demo_{i}"].create_dataset("obs/img", data=frames, **options)
        file["mask/last"] = np.array([b"demo_2"])
    return path


@pytest.mark.parametrize("kind", ["zarr", "zarr float", "hdf5", "hdf5 compressed"])
def test_rows_are_the_stored_images(tmp_path: Path, images: list[Any], kind: str) -> None:
    if kind.startswith("zarr"):
        path = zarr_of(tmp_path / "a.zarr", images, np.float32 if "float" in kind else np.uint8)
    else:
        path = hdf5_of(
            tmp_path / "a.hdf5", images, **({"compression": "gzip"} if " " in kind else {})
        )
    frames = open_frames(path, "img", SIZE, tmp_path / "frames")
    everything = np.concatenate(images)
    rows = np.array([[0, 4], [5, 15], [11, 12]])
    np.testing.assert_array_equal(frames.take(rows), everything[rows])
    assert len(frames) == len(everything)
    assert (tmp_path / "frames").exists() == (kind != "hdf5")  # which is mapped where it is
    if kind != "hdf5":
        (file,) = (tmp_path / "frames").glob("*.frames")
        made = file.stat().st_mtime_ns
        open_frames(path, "img", SIZE, tmp_path / "frames")
        assert file.stat().st_mtime_ns == made  # decoded once


def test_some_rows_and_filter_keys(tmp_path: Path, images: list[Any]) -> None:
    path = hdf5_of(tmp_path / "a.hdf5", images, compression="gzip")
    last = open_frames(path, "img", SIZE, tmp_path / "frames", "last")
    np.testing.assert_array_equal(last.take(np.arange(4)), images[2])
    few = open_frames(zarr_of(tmp_path / "a.zarr", images, np.uint8), "img", SIZE, tmp_path, rows=5)
    np.testing.assert_array_equal(few.take(np.arange(5)), images[0])
    assert len(few) == 5


def test_memory_holds_no_more_than_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.ones((300, 1))
        file["data/demo_0/obs/img"] = np.zeros((300, 200, 200, 3), np.uint8)  # 36 MB
    tracemalloc.start()
    frames = open_frames(path, "img", (200, 200), tmp_path)
    frames.take(np.arange(0, 300, 60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:, :7], r"holds \(7, 10, 3\) uint8 a step; expected images \(8, 10, 3\)"),
        (lambda x: x / 255.0, "store images as 0...255"),
        (lambda x: x - 300.0, "expected images in 0...255"),
    ],
)
def test_what_is_no_image_is_refused(
    tmp_path: Path, images: list[Any], spoil: Any, message: str
) -> None:
    path = tmp_path / "a.zarr"
    write_replay(path, [{"img": spoil(i), "action": np.ones((len(i), 1))} for i in images])
    with pytest.raises(PcmError, match=message) as caught:
        open_frames(path, "img", SIZE, tmp_path / "frames")
    assert str(path) in str(caught.value)
    with pytest.raises(PcmError, match="data/top: missing"):
        open_frames(path, "top", SIZE, tmp_path / "frames")


def test_parts_stand_end_to_end(images: list[Any]) -> None:
    frames = Frames.of(images)
    np.testing.assert_array_equal(frames.take(np.array(15)), images[2][-1])
