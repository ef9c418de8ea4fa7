import hashlib
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.formats import store, writing
from pcm_policy.datasets.formats.replay import array_info, open_replay
from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError

Episode = dict[str, NDArray[Any]]
INTERRUPTED = 42


def make_episodes(lengths: tuple[int, ...] = (5, 1, 9)) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        {
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "img": rng.integers(0, 256, size=(n, 4, 4, 3), dtype=np.uint8),
            "done": rng.integers(0, 2, size=n).astype(bool),
            "state": rng.normal(size=(n, 3)),
        }
        for n in lengths
    ]


def write_raw(path: Path, ends: Any, **arrays: Any) -> Path:
    """Write a store with nothing checked."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for key, values in arrays.items():
        root.create_array(f"data/{key}", data=np.asarray(values))
    if ends is not None:
        root.create_array("meta/episode_ends", data=np.asarray(ends))
    return path


def assert_refused(path: Path, *words: str, keys: list[str] | None = None) -> None:
    with pytest.raises(PcmError) as caught:
        open_replay(path, keys)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip"])
def test_round_trip(tmp_path: Path, name: str, zarr_format: Literal[2, 3]) -> None:
    episodes = make_episodes()
    path = tmp_path / "new" / name
    write_replay(path, iter(episodes), attrs={"hz": 10}, zarr_format=zarr_format)
    buffer = open_replay(path)
    assert [p.name for p in path.parent.iterdir()] == [name]
    assert path.is_dir() == (name == "a.zarr")
    assert (buffer.n_steps, buffer.n_episodes, buffer.attrs) == (15, 3, {"hz": 10})
    np.testing.assert_array_equal(buffer.episode_ends, [5, 6, 15])
    np.testing.assert_array_equal(buffer.starts, [0, 5, 6])
    np.testing.assert_array_equal(buffer.lengths, [5, 1, 9])
    for i, expected in enumerate(episodes):
        found = buffer.episode(i)
        assert set(found) == set(expected)
        for key in found:
            assert found[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(found[key], expected[key])


def test_only_the_keys_asked_for_are_read(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", make_episodes())
    shutil.rmtree(tmp_path / "a.zarr" / "data" / "img")
    assert set(open_replay(tmp_path / "a.zarr", ["state", "action"]).arrays) == {"state", "action"}


def test_array_info_reads_no_chunks(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", make_episodes())
    for chunk in (tmp_path / "a.zarr" / "data" / "img").glob("[0-9]*"):
        chunk.write_bytes(b"")
    info = {item.key: item for item in array_info(tmp_path / "a.zarr")}
    assert list(info) == ["action", "done", "img", "state"]
    assert info["img"].shape == (15, 4, 4, 3)
    assert (info["img"].dtype, info["img"].nbytes) == (np.uint8, 15 * 48)
    assert info["img"].chunks[1:] == (4, 4, 3)


def test_many_chunks_and_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(writing, "_PENDING_BYTES", 1000)
    monkeypatch.setattr(store, "_BLOCK_VALUES", 10)
    episodes = make_episodes((7, 3, 11, 2, 20))
    write_replay(tmp_path / "a.zarr", episodes)
    buffer = open_replay(tmp_path / "a.zarr")
    for key in episodes[0]:
        whole = np.concatenate([episode[key] for episode in episodes])
        np.testing.assert_array_equal(buffer.arrays[key], whole)
    assert {i.key: i.chunks[0] for i in array_info(tmp_path / "a.zarr")}["action"] == 8


def test_format_2_is_what_zarr_2_reads(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", make_episodes())
    folder = tmp_path / "a.zarr" / "data" / "action"
    meta = json.loads((folder / ".zarray").read_text())
    assert (meta["zarr_format"], meta["dtype"], meta["filters"]) == (2, "<f4", None)
    assert (meta["compressor"]["id"], meta["compressor"]["cname"]) == ("blosc", "zstd")
    assert (folder / "0.0").is_file()


def test_write_takes_a_copy_of_reused_buffers(tmp_path: Path) -> None:
    rows = np.zeros((2, 1))

    def episodes() -> Iterator[Episode]:
        for value in (1.0, 2.0):
            rows[:] = value
            yield {"action": rows}

    write_replay(tmp_path / "a.zarr", episodes())
    assert open_replay(tmp_path / "a.zarr").arrays["action"].ravel().tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
def test_interrupted_write_leaves_nothing(
    tmp_path: Path, name: str, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_PENDING_BYTES", 1)

    def episodes() -> Iterator[Episode]:
        yield from make_episodes()
        raise stop

    with pytest.raises(stop) as caught:
        write_replay(tmp_path / name, episodes())
    assert not isinstance(caught.value, PcmError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delay_s", [0.1, 0.15, 0.2])
def test_control_c_while_zarr_writes_leaves_nothing(tmp_path: Path, delay_s: float) -> None:
    """In a process of its own: an interrupt that came late would end the tests themselves."""
    process = get_context("spawn").Process(target=_interrupted, args=(tmp_path / "a.zarr", delay_s))
    process.start()
    process.join(60)
    assert process.exitcode == INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def _interrupted(path: Path, delay_s: float) -> None:
    writing._PENDING_BYTES, writing._CHUNK_BYTES = 1 << 18, 1 << 14
    noise = np.random.default_rng(0).normal(size=(200, 20))
    # a shell's background jobs ignore Ctrl-C: take it here whatever started the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
        write_replay(path, itertools.repeat({"action": noise}, 20_000))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def test_write_refuses_an_existing_path(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_text("precious")
    with pytest.raises(PcmError, match=r"a\.zip: store: exists already"):
        write_replay(path, make_episodes())
    assert path.read_text() == "precious"


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.zarr"
    with pytest.raises(PcmError, match=r"file/a\.zarr: store: cannot be written \("):
        write_replay(path, make_episodes())


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
def test_full_disk(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).normal(size=(50_000, 2))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    try:
        with pytest.raises(PcmError, match="cannot be written") as caught:
            write_replay(tmp_path / name, [{"action": noise}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(tmp_path / name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


one = np.ones((3, 2))


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        ([], "no episodes"),
        ([{}], "episode 0: has rows {}"),
        ([{"a": one[:0]}], "episode 0: has rows {'a': 0}"),
        ([{"a": one}, {"a": one, "b": one[:2]}], "episode 1: has rows {'a': 3, 'b': 2}"),
        ([{"a": one}, {"b": one}], "episode 1: has arrays ['b'], the first has ['a']"),
        ([{"a": one}, {"a": one[:, :1]}], "a has steps of (1,) float64, the first episode of (2,)"),
        ([{"a": one}, {"a": one.astype("f4")}], "a has steps of (2,) float32, the first"),
        ([{"a": one}, {"a": one * np.inf}], "episode 1: a holds NaN or inf at step 0"),
        ([{"a": one.astype(str)}], "expected numbers"),
        ([{"a": one[:, :0]}], "no empty axis"),
        ([{"obs/a": one}], "no slash"),
    ],
)
def test_bad_episodes(tmp_path: Path, episodes: list[Episode], words: str) -> None:
    with pytest.raises(PcmError) as caught:
        write_replay(tmp_path / "a.zarr", episodes)
    assert words in str(caught.value)
    assert str(tmp_path / "a.zarr") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


ten = np.arange(20.0).reshape(10, 2)
broken = ten.copy()
broken[7, 1] = np.nan


@pytest.mark.parametrize(
    ("ends", "arrays", "words"),
    [
        (None, {"action": ten}, ["meta/episode_ends: missing; meta holds nothing"]),
        ([10], {}, ["data: missing", "the store holds meta"]),
        (np.empty(0, int), {"action": ten}, ["meta/episode_ends", "shape (0,)"]),
        ([[5, 10]], {"action": ten}, ["meta/episode_ends", "shape (1, 2)"]),
        ([5.0, 10.0], {"action": ten}, ["meta/episode_ends", "dtype float64"]),
        ([6, 4, 10], {"action": ten}, ["meta/episode_ends", "entry 1 (4 after 6)"]),
        ([-2, 10], {"action": ten}, ["meta/episode_ends", "entry 0 (-2 after 0)"]),
        ([5, 5, 10], {"action": ten}, ["meta/episode_ends", "first episode 1 (ends at 5)"]),
        ([0, 10], {"action": ten}, ["meta/episode_ends", "first episode 0 (ends at 0)"]),
        ([5, 12], {"action": ten}, ["meta/episode_ends", "row 12, past the 10 rows"]),
        ([5, 8], {"action": ten}, ["meta/episode_ends", "row 8, short of the 10 rows"]),
        ([5, 10], {"action": ten, "state": ten[:9]}, ["data/state: has 9 rows where data/action"]),
        ([5, 10], {"action": broken}, ["data/action", "in 1 rows, first at row 7 (episode 1)"]),
        (
            [5, 10],
            {"action": np.full((10, 2), np.inf)},
            ["data/action", "in 10 rows, first at row 0 (episode 0)"],
        ),
    ],
)
def test_broken_stores(tmp_path: Path, ends: Any, arrays: Episode, words: list[str]) -> None:
    assert_refused(write_raw(tmp_path / "a.zarr", ends, **arrays), *words)


def test_missing_key_names_those_there(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.zarr", [10], action=ten, state=ten)
    assert_refused(path, "data/image: missing", "action, state", keys=["action", "image"])


def test_what_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"\x89HDF")
    assert_refused(tmp_path / "none.zarr", "does not exist")
    assert_refused(tmp_path / "a.hdf5", "cannot be unzipped")
    assert_refused(tmp_path, "no zarr group at its root")
    shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path, "a.hdf5")
    assert_refused(tmp_path / "b.zip", "no zarr group at its root")


def test_truncated_and_corrupt_zip(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zip", make_episodes())
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    assert_refused(tmp_path / "cut.zip", "cannot be unzipped")
    chunk = tmp_path / "flipped.zip"
    at = content.index(b"data/img/0.0.0.0") + 200
    chunk.write_bytes(
        content[:at] + bytes(255 - b for b in content[at : at + 50]) + content[at + 50 :]
    )
    assert_refused(chunk, "data/img: cannot be decoded")
    assert set(open_replay(chunk, ["action"]).arrays) == {"action"}


@pytest.mark.parametrize("file", ["0.0", ".zarray"])
def test_damaged_folder(tmp_path: Path, file: str) -> None:
    write_replay(tmp_path / "a.zarr", make_episodes())
    victim = tmp_path / "a.zarr" / "data" / "action" / file
    victim.write_bytes(victim.read_bytes()[:20])
    assert_refused(tmp_path / "a.zarr", "data/action: cannot be decoded", keys=["action"])
    assert_refused(tmp_path / "a.zarr", "cannot be decoded")
    assert set(open_replay(tmp_path / "a.zarr", ["state"]).arrays) == {"state"}


def test_errors_cross_processes() -> None:
    error = ReplayError(Path("a.zarr"), "data/x", "is\nbad", "mend it")
    assert str(pickle.loads(pickle.dumps(error))) == "a.zarr: data/x: is bad; mend it"


def test_human_data(human_data: Path) -> None:
    buffer = open_replay(human_data, ["action", "state", "keypoint"])
    assert (buffer.n_episodes, buffer.n_steps) == (206, 25650)
    assert (buffer.lengths.min(), buffer.lengths.max()) == (49, 246)
    known = {"action": "6691b085", "state": "dcdc539b", "keypoint": "2419980734c1d410"}
    for key, prefix in known.items():
        assert hashlib.sha256(buffer.arrays[key].tobytes()).hexdigest().startswith(prefix)
    assert hashlib.sha256(buffer.episode_ends.tobytes()).hexdigest().startswith("82db02e667c59a83")
