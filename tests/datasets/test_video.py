"""Frames of real videos, and LeRobot folders with cameras, frame by frame."""

import io
import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.video import Video
from pcm_policy.errors import PcmError

av = pytest.importorskip("av", reason="av is not installed: pip install 'pcm_policy[video]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'pcm_policy[convert]'")
SIZE = (48, 64)
CAMERA = "observation.images.top"


def frame(number: int) -> np.ndarray:
    """A frame that says its number in eight large fields, black or white, and has a red corner."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for bit in range(8):
        row, column = divmod(bit, 4)
        image[24 * row : 24 * row + 24, 16 * column : 16 * column + 16] = 255 * (number >> bit & 1)
    image[:8, :8] = (200, 30, 30)
    return image


def number_of(image: np.ndarray) -> int:
    bits = [(divmod(bit, 4), bit) for bit in range(8)]
    return sum(int(image[24 * r + 14, 16 * c + 10].mean() > 127) << bit for (r, c), bit in bits)


def write_video(path: Path, numbers: list[int], fps: int = 10, skip: tuple[int, ...] = ()) -> None:
    """Encode as LeRobot 0.3 did: H.264 with frames that refer to later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "12", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for place, number in enumerate(numbers):
            if place in skip:
                continue
            image = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            image.pts, image.time_base = place, Fraction(1, fps)
            container.mux(stream.encode(image))
        container.mux(stream.encode())


@pytest.mark.parametrize("fps", [10, 30])
def test_every_step_has_its_own_frame(tmp_path: Path, fps: int) -> None:
    write_video(tmp_path / "a.mp4", list(range(60)), fps)
    with Video(tmp_path / "a.mp4", fps) as video:
        first, second = video.read(0.0, 25), video.read(40 / fps, 20)
    assert first.shape == (25, *SIZE, 3)
    assert [number_of(x) for x in first] == list(range(25))
    assert [number_of(x) for x in second] == list(range(40, 60))
    for number, image in enumerate(first):
        assert np.abs(image.astype(int) - frame(number)).mean() < 8  # lossy, not shifted


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", list(range(20)), skip=(7,))
    with (
        Video(tmp_path / "a.mp4", 10) as video,
        pytest.raises(PcmError, match=r"a\.mp4: video: has no frame at 0\.700 s, the next is"),
    ):
        video.read(0.0, 20)
    with (
        Video(tmp_path / "a.mp4", 10) as video,
        pytest.raises(PcmError, match=r"ends before the frame at 2\.000 s"),
    ):
        video.read(1.0, 20)
    (tmp_path / "b.mp4").write_bytes(b"no video" * 20)
    with pytest.raises(PcmError, match=r"b\.mp4: video: cannot be opened"):
        Video(tmp_path / "b.mp4", 10)
    with pytest.raises(PcmError, match=r"c\.mp4: video: is missing"):
        Video(tmp_path / "c.mp4", 10)


def lerobot(path: Path, version: str) -> list[int]:
    """Three episodes of 5, 9 and 4 steps with a video and a stored picture each; their numbers."""
    import pyarrow as pa

    steps, numbers, rows = (5, 9, 4), list(range(100, 118)), []
    old = version == "v2.1"
    for episode, count in enumerate(steps):
        for i in range(count):
            whole = len(rows)
            png = io.BytesIO()
            imageio.v3.imwrite(png, frame(numbers[whole]), extension=".png")
            picture = {"bytes": png.getvalue(), "path": None}
            row = {"action": [float(whole), 0.0], "wrist": picture, "timestamp": i / 10}
            row |= {"frame_index": i, "episode_index": episode, "index": whole, "task_index": 0}
            rows.append(row)
    (path / "meta").mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    table = table.set_column(0, "action", table["action"].cast(pa.list_(pa.float32())))
    start, place = 0, []
    for episode, count in enumerate(steps):
        name = f"episode_{episode:06d}" if old else f"file-{episode:03d}"
        file = path / f"data/chunk-000/{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(start, count), file)
        if old:
            video = path / f"videos/chunk-000/{CAMERA}/{name}.mp4"
            write_video(video, numbers[start : start + count])
        keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        values = (0, 0, start / 10, (start + count) / 10)
        own = {f"videos/{CAMERA}/{k}": v for k, v in zip(keys, values, strict=True)}
        place.append({"episode_index": episode, **own})
        start += count
    if not old:
        (path / "meta/episodes/chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(place), path / "meta/episodes/chunk-000/f.parquet")
        write_video(path / f"videos/{CAMERA}/chunk-000/file-000.mp4", numbers)
    shapes = {"action": ("float32", [2]), CAMERA: ("video", [*SIZE, 3])}
    shapes["wrist"] = ("image", [3, *SIZE])
    shapes |= {k: ("int64", [1]) for k in ("frame_index", "episode_index", "index", "task_index")}
    shapes["timestamp"] = ("float32", [1])
    features = {k: {"dtype": d, "shape": s, "names": None} for k, (d, s) in shapes.items()}
    info = {"codebase_version": version, "fps": 10, "features": features, "chunks_size": 1000}
    (path / "meta/info.json").write_text(json.dumps(info))
    return numbers


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_cameras_of_a_folder(tmp_path: Path, version: str) -> None:
    numbers = lerobot(tmp_path / "a", version)
    found = convert(tmp_path / "a", tmp_path / "low.zarr")
    assert [line.partition(":")[0] for line in found.lost] == [f"{CAMERA} (video)", "wrist (image)"]
    found = convert(tmp_path / "a", tmp_path / "all.zarr", images="all")
    assert found.lost == ()
    arrays = open_replay(tmp_path / "all.zarr").arrays
    assert arrays[CAMERA].shape == arrays["wrist"].shape == (18, *SIZE, 3)
    assert [number_of(x) for x in arrays[CAMERA]] == numbers
    np.testing.assert_array_equal(arrays["wrist"], [frame(n) for n in numbers])
    found = convert(tmp_path / "a", tmp_path / "one.zarr", images=[CAMERA], rename={CAMERA: "top"})
    assert set(found.fields) == {"action", "top"}
    with pytest.raises(PcmError, match=r"no camera entry top: it has observation\.images\.top, "):
        convert(tmp_path / "a", tmp_path / "no.zarr", images=["top"])
    with pytest.raises(PcmError, match="decodes cameras of a LeRobot data set, not of zarr"):
        convert(tmp_path / "one.zarr", tmp_path / "no.zarr", images="all")


def test_cameras_in_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    numbers = lerobot(tmp_path / "a", "v3.0")
    convert(tmp_path / "a", tmp_path / "b.hdf5", images=[CAMERA])
    with h5py.File(tmp_path / "b.hdf5") as file:
        frames = file[f"data/demo_1/obs/{CAMERA}"]
        assert frames.dtype == np.uint8
        assert [number_of(x) for x in frames] == numbers[5:14]


THEIRS = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
features = {
    "observation.images.top": {"dtype": "video", "shape": (64, 96, 3),
                               "names": ["height", "width", "channels"]},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
}
root = sys.argv[1]
data = LeRobotDataset.create("me/film", 10, features, root=root, use_videos=True)
rng = np.random.default_rng(0)
images = []
for steps in (6, 11):
    for i in range(steps):
        image = np.kron(rng.integers(0, 256, (4, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
        images.append(image)
        action = np.float32([i, steps])
        data.add_frame({"observation.images.top": image, "action": action, "task": "x"})
    data.save_episode()
data.finalize()
np.save(sys.argv[2], np.stack(images))
"""


@pytest.mark.slow
def test_frames_of_lerobots_own_video(tmp_path: Path, lerobot_python: str) -> None:
    """AV1, both episodes in one file, as LeRobot records them: the nearest is the own one."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [lerobot_python, "-c", THEIRS, tmp_path / "a", tmp_path / "frames.npy"],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    convert(tmp_path / "a", tmp_path / "a.zarr", images="all")
    buffer: Any = open_replay(tmp_path / "a.zarr")
    assert buffer.lengths.tolist() == [6, 11]
    theirs, ours = (
        x.astype(int) for x in (np.load(tmp_path / "frames.npy"), buffer.arrays[CAMERA])
    )
    apart = np.abs(ours[:, None] - theirs[None]).mean(axis=(2, 3, 4))
    assert apart.argmin(axis=1).tolist() == list(range(17))
    assert buffer.arrays["action"][:, 0].tolist() == [*range(6), *range(11)]
