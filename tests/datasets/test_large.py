"""Memory does not grow with a recording's frames and episodes, nor do open files."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.formats.loading import frame_source
from pcm_policy.datasets.frames import open_frames
from pcm_policy.datasets.recording import Episode, Recording
from pcm_policy.datasets.windows import window_indices
from pcm_policy.training.cameras import Sight
from pcm_policy.training.demonstrations import Demonstrations

pytest.importorskip("h5py", reason="pip install 'pcm_policy[convert]'")
from benchmarks import big_hdf5

STEPS = 3
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of 20 and of 300 short demonstrations: 2.6 and 38 MB."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"small.hdf5": 20, "large.hdf5": 300}
    for name, count in sizes.items():
        made = big_hdf5.make(folder / name, count * STEPS * big_hdf5.STEP, STEPS)
        assert made == count
    return folder / "small.hdf5", folder / "large.hdf5"


def own_memory() -> int:
    """Return the bytes of this process that no file holds."""
    found = re.search(r"^RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) << 10


def growth(work: Callable[[], object]) -> int:
    """Return how much more memory this process had at most while it did something."""
    before = most = own_memory()
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    return max(most, own_memory()) - before


def read_batches(path: Path) -> None:
    """Do what training does with frames: hash them, and read those of random windows."""
    cameras = big_hdf5.CAMERAS
    frames = {k: open_frames(path, k, (84, 84), path.parent / "none") for k in cameras}
    count = len(frames[cameras[0]])
    rows = window_indices(np.arange(STEPS, count + 1, STEPS), 2, 0, 0)
    state = torch.zeros(count, 1)
    data = Demonstrations(state, state, rows, rows[:0], np.arange(count), frames)
    assert len(data.digests()) == 4 + len(cameras)
    seen = torch.from_numpy(rows)
    sight = Sight(seen, state[seen], frames)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        sight(torch.randint(len(rows), (8,), generator=generator), torch.device("cpu"))


@needs_proc
@pytest.mark.parametrize("work", [summary, validate, read_batches])
def test_memory_does_not_grow_with_the_file(
    files: tuple[Path, Path], work: Callable[[Path], object]
) -> None:
    """36 MB more of frames and 280 more demonstrations, whose numbers are 0.3 MB."""
    small, large = files
    work(small)  # imports and what is allocated once
    spent = growth(lambda: work(large))
    assert spent < 12e6, f"{spent / 1e6:.0f} MB"
    assert not (small.parent / "none").exists()  # nothing was decoded


@needs_proc
def test_one_open_file_for_all_demonstrations(files: tuple[Path, Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    frames = open_frames(files[1], big_hdf5.CAMERAS[0], (84, 84), files[1].parent / "none")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    import h5py

    with h5py.File(files[1]) as file:
        for demo in (0, 1, 150, 299):
            expected = file[f"data/demo_{demo}/obs/{big_hdf5.CAMERAS[0]}"][()]
            found = frames.take(np.arange(demo * STEPS, (demo + 1) * STEPS))
            np.testing.assert_array_equal(found, expected)


def test_frames_are_counted_without_being_read() -> None:
    lengths, asked = (5, 3), []

    def episodes(names: object) -> Iterator[Episode]:
        asked.append(list(names))  # type: ignore[call-overload]
        for steps in lengths:
            made = {"qpos": np.zeros((steps, 14)), "img": np.zeros((steps, 8, 8, 3), np.uint8)}
            yield {name: made[name] for name in asked[-1]}

    fields = {"img": np.dtype((np.uint8, (8, 8, 3))), "qpos": np.dtype((np.float64, (14,)))}
    source = frame_source(Recording(Path("a"), fields, 2, episodes), "img")
    assert (source.count, asked) == (8, [["qpos"]])
    assert [len(block) for _, block in source.blocks()] == [5, 3]
    assert asked[1:] == [["img"]]
