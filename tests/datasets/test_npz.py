"""NumPy's .npz files as demonstrations: where episodes end, what is no array of steps, damage."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.errors import PcmError

LENGTHS = (4, 1, 6)
ENDS = np.cumsum(LENGTHS)


def flags(*rows: int) -> np.ndarray[Any, Any]:
    found = np.zeros(ENDS[-1], bool)
    found[list(rows)] = True
    return found


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(ENDS[-1], 3)),
        "actions": rng.normal(size=(ENDS[-1], 2)).astype(np.float32),
    }


@pytest.mark.parametrize(
    "ends",
    [
        {"episode_ends": ENDS},
        {"terminals": flags(3), "timeouts": flags(4)},  # the last row is an end by itself
        {"dones": flags(3, 4, 10)},
        {"done": flags(3, 4, 10)[:, None].astype(np.float32)},
    ],
    ids=lambda ends: "-".join(ends),
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_values_and_episodes(tmp_path: Path, ends: Any, save: Any) -> None:
    """Compared with the arrays as they were cut by hand."""
    written = arrays()
    save(tmp_path / "a.npz", **written, **ends)
    assert source_format(tmp_path / "a.npz").name == "npz"
    convert(tmp_path / "a.npz", tmp_path / "a.zarr")
    buffer = open_replay(tmp_path / "a.zarr")
    assert buffer.lengths.tolist() == list(LENGTHS)
    plain = "episode_ends" in ends
    for name, ours in (("observations", "observation"), ("actions", "action")):
        np.testing.assert_array_equal(buffer.arrays[name if plain else ours], written[name])
    assert "episode_ends" not in buffer.arrays


def test_episodes_are_read_one_by_one(tmp_path: Path) -> None:
    written = arrays()
    np.savez(tmp_path / "a.npz", **written, episode_ends=ENDS)
    episodes = list(source_format(tmp_path / "a.npz").read(tmp_path / "a.npz").read(["actions"]))
    cut = np.split(written["actions"], ENDS[:-1])
    assert len(episodes) == len(cut)
    for episode, rows in zip(episodes, cut, strict=True):
        assert list(episode) == ["actions"]
        np.testing.assert_array_equal(episode["actions"], rows)


def test_what_is_no_array_of_steps_is_named(tmp_path: Path) -> None:
    rows = int(ENDS[-1])
    odd = {
        "texts": np.array(["a"] * rows),
        "objects": np.array([{"a": 1}] * rows, object),
        "complex": np.zeros(rows, complex),
        "structures": np.zeros(rows, [("x", float)]),
        "one": np.array(3.0),
        "short": np.zeros((rows - 1, 2)),
    }
    np.savez(tmp_path / "a.npz", **arrays(), **odd, episode_ends=ENDS)  # type: ignore[arg-type]
    found = convert(tmp_path / "a.npz", tmp_path / "a.zarr")
    lost = " ".join(found.lost)
    for name, why in (
        ("texts", "text"),
        ("objects", "Python objects"),
        ("complex", "complex"),
        ("structures", "structures"),
        ("one", "not one row a step"),
        ("short", "not one row a step"),
    ):
        assert name in lost
        assert why in lost
    assert set(open_replay(tmp_path / "a.zarr").arrays) == set(arrays())


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ({}, "nothing says where episodes end; there are actions, observations; add it"),
        ({"episode_ends": ENDS.astype(float)}, "is float64 of shape"),
        ({"episode_ends": np.array([], int)}, r"is int64 of shape \(0,\)"),
        ({"episode_ends": np.array([4, 4, 11])}, "does not grow"),
        ({"episode_ends": np.array([0, 11])}, "does not grow"),
        (
            {"episode_ends": np.array([4, 99])},
            r"end at row 99, where no array of numbers does: .*actions \(11, 2\)",
        ),
        ({"terminals": flags()[:5], "timeouts": flags()}, "has 11 rows where there are 5 steps"),
    ],
)
def test_ends_that_are_none(tmp_path: Path, ends: Any, words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(), **ends)
    with pytest.raises(PcmError, match=words):
        convert(tmp_path / "a.npz", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def member(header: dict[str, Any], data: bytes) -> bytes:
    """An array's file, with a header that says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


@pytest.mark.parametrize(
    ("shape", "stored", "words"),
    [
        ((11, 1 << 40), 88, "says to hold"),  # no memory is asked for
        ((11, 4), 88, "says to hold 352 bytes and holds"),
        ((11, 1 << 40, 1 << 40), 88, "says to hold"),  # more than 64 bits count
    ],
)
def test_one_damaged_array_leaves_the_others(
    tmp_path: Path, shape: tuple[int, ...], stored: int, words: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays(), episode_ends=ENDS)
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("bad.npy", member(header, bytes(stored)))
    with pytest.raises(PcmError, match=f"bad: {words}"):
        convert(tmp_path / "a.npz", tmp_path / "a.zarr")
    convert(tmp_path / "a.npz", tmp_path / "a.zarr", leave_out=["bad"])
    assert set(open_replay(tmp_path / "a.zarr").arrays) == set(arrays())


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, **arrays(), episode_ends=ENDS)
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    with pytest.raises(PcmError, match=r"observations: cannot be read.*CRC"):
        convert(file, tmp_path / "a.zarr")


@pytest.mark.parametrize("at", range(60, 320, 20))
def test_packed_bytes_that_are_overwritten_are_noticed(tmp_path: Path, at: int) -> None:
    """Wherever it is, in a header or in rows, it is the package's own error."""
    file = tmp_path / "a.npz"
    np.savez_compressed(file, **arrays(), episode_ends=ENDS)
    data = bytearray(file.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    file.write_bytes(data)
    with pytest.raises(PcmError, match="cannot be read"):
        convert(file, tmp_path / "a.zarr")
