"""Decoded frames are those of their source, whatever happened to it or to the disk."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.frame_cache import cached_frames
from pcm_policy.datasets.frames import open_frames
from pcm_policy.errors import PcmError

SIZE = (6, 4)
STEPS = 9


def images(seed: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.random.default_rng(seed).integers(0, 256, (STEPS, *SIZE, 3))
    return found.astype(dtype)


def store(path: Path, seed: int = 0) -> Path:
    write_replay(path, [{"img": images(seed), "action": np.ones((STEPS, 1))}])
    return path


def read(path: Path, cache: Path) -> np.ndarray[Any, Any]:
    return open_frames(path, "img", SIZE, cache).take(np.arange(STEPS))


@pytest.mark.parametrize("part", [slice(None), slice(4, 5)])
def test_pixels_corrected_in_place_are_read_again(tmp_path: Path, part: slice) -> None:
    path, cache = store(tmp_path / "a.zarr"), tmp_path / "frames"
    before = read(path, cache)
    stamp = path.stat().st_mtime_ns
    array: Any = zarr.open_group(str(path), mode="r+")["data/img"]
    array[part] = 255 - array[part]
    os.utime(path, ns=(stamp, stamp))  # as on file systems that do not touch the top folder
    after = before.copy()
    after[part] = 255 - after[part]
    np.testing.assert_array_equal(read(path, cache), after)


def test_stores_of_one_name_do_not_share_frames(tmp_path: Path) -> None:
    one, two = store(tmp_path / "1/a.zarr", 1), store(tmp_path / "2/a.zarr", 2)
    for _ in range(2):
        np.testing.assert_array_equal(read(one, tmp_path / "frames"), images(1))
        np.testing.assert_array_equal(read(two, tmp_path / "frames"), images(2))
    assert len(list((tmp_path / "frames").glob("*.frames"))) == 2


@pytest.mark.parametrize("damage", ["cut", "note", "gone", "json"])
def test_a_cache_that_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    path, cache = store(tmp_path / "a.zarr"), tmp_path / "frames"
    read(path, cache)
    (file,), (note,) = cache.glob("*.frames"), cache.glob("*.json")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "gone":
        file.unlink()
    elif damage == "json":
        note.write_text("[1,")
    else:
        note.unlink()
    np.testing.assert_array_equal(read(path, cache), images(0))


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
from pcm_policy.datasets.frames import open_frames
from pcm_policy.errors import PcmError
try:
    open_frames(Path(sys.argv[1]), "img", (6, 4), Path(sys.argv[2]))
except PcmError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path, cache = store(tmp_path / "a.zarr"), tmp_path / "frames"
    command = [sys.executable, "-c", FULL, str(path), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "GB of decoded frames: cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("fails", [28, 22, 95])
def test_room_is_asked_for_where_the_file_system_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """28: no space. 22 and 95: the file system does not know the question."""

    def allocate(handle: int, offset: int, size: int) -> None:
        assert size == STEPS * 6 * 4 * 3
        raise OSError(fails, os.strerror(fails))

    path = store(tmp_path / "a.zarr")
    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    if fails == 28:
        with pytest.raises(PcmError, match="No space left on device"):
            read(path, tmp_path / "frames")
    else:
        np.testing.assert_array_equal(read(path, tmp_path / "frames"), images(0))


def test_runs_share_frames_by_a_link(tmp_path: Path) -> None:
    path, shared = store(tmp_path / "a.zarr"), tmp_path / "elsewhere"
    shared.mkdir()
    times = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "frames").symlink_to(shared)
        np.testing.assert_array_equal(read(path, tmp_path / run / "frames"), images(0))
        (file,) = shared.glob("*.frames")
        times.append(file.stat().st_mtime_ns)
    assert times[0] == times[1]


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from pcm_policy.datasets.frame_cache import cached_frames

def blocks():
    yield np.ones((4, 6, 4, 3), np.uint8)
    os.kill(os.getpid(), 9)

cached_frames(Path(sys.argv[1]), "img", None, (9, 6, 4, 3), blocks(), Path(sys.argv[2]))
"""


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    path, cache = store(tmp_path / "a.zarr"), tmp_path / "frames"
    command = [sys.executable, "-c", KILLED, str(path), str(cache)]
    assert subprocess.run(command, check=False).returncode == -9
    (left,) = cache.iterdir()
    assert left.name.startswith(".a.zarr.img.")
    other = cache / ".another.frames.1"
    other.touch()
    np.testing.assert_array_equal(read(path, cache), images(0))
    assert not left.exists()
    assert other.exists()


def test_a_run_waits_for_another_that_decodes_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cache = store(tmp_path / "a.zarr"), tmp_path / "frames"
    shape = (STEPS, *SIZE, 3)
    made: list[np.ndarray[Any, Any]] = []

    def second() -> None:
        made.append(cached_frames(path, "img", None, shape, iter([images(7)]), cache))

    def first() -> Iterator[np.ndarray[Any, Any]]:
        yield images(0)[:5]
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        yield images(0)[5:]

    waiting = threading.Thread(target=second)
    cached_frames(path, "img", None, shape, first(), cache)
    waiting.join()
    np.testing.assert_array_equal(made[0], images(0))  # nothing was decoded a second time
    assert f"another run decodes into {cache}" in capsys.readouterr().err
