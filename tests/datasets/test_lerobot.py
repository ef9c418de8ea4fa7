"""LeRobot folders that are not as LeRobot's documentation says, or that others wrote."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="pip install 'pcm_policy[convert]'")

from pcm_policy.datasets.convert import convert  # noqa: E402
from pcm_policy.datasets.doctor.report import summary, validate  # noqa: E402
from pcm_policy.datasets.formats.lerobot import read_lerobot  # noqa: E402
from pcm_policy.datasets.formats.replay import open_replay  # noqa: E402
from pcm_policy.datasets.formats.writing import write_replay  # noqa: E402
from pcm_policy.errors import PcmError  # noqa: E402
from tests.datasets.lerobot_folders import (  # noqa: E402
    LENGTHS,
    folder,
    pairs,
    table,
    with_column,
)

N = sum(LENGTHS)
STEPS = np.concatenate([np.arange(n) for n in LENGTHS])
EPISODE = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def same_rows(path: Path) -> None:
    """Every row is the step of the episode that it says."""
    episodes = list(read_lerobot(path).read())
    assert [len(e["action"]) for e in episodes] == list(LENGTHS)
    found = np.concatenate([e["observation.state"] for e in episodes])
    np.testing.assert_array_equal(found, np.stack([EPISODE, STEPS], 1))


def refused(path: Path, *words: str, target: str = "out.zarr", **options: Any) -> str:
    with pytest.raises(PcmError) as caught:
        convert(path, path.parent / target, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    assert not (path.parent / target).exists()
    return message


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(range(N)), st.lists(st.integers(0, N), max_size=3), st.integers(1, 9))
def test_rows_in_any_order_in_any_files(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int], size: int
) -> None:
    shuffled, bounds = table().take(order), [0, *sorted(cuts), N]
    files = {
        f"file-{i:03d}.parquet": shuffled.slice(a, b - a)
        for i, (a, b) in enumerate(pairwise(bounds))
    }
    path = tmp_path_factory.mktemp("lr") / "lr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcm_policy.datasets.formats.lerobot_columns._BATCH_ROWS", size)
        same_rows(folder(path, files))


def test_the_layout_is_the_versions(tmp_path: Path) -> None:
    """Files of v2.1 that stayed beside those of v3.0 are not read; nor the other way round."""
    starts = np.cumsum([0, *LENGTHS])
    both = {"file-000.parquet": table()} | {
        f"episode_{e:06d}.parquet": table().slice(starts[e], n) for e, n in enumerate(LENGTHS)
    }
    same_rows(folder(tmp_path / "v3", both))
    old = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    same_rows(folder(tmp_path / "v2", both, codebase_version="v2.1", data_path=old))
    same_rows(folder(tmp_path / "v2b", both, codebase_version="v2.1", data_path=None))
    wrong = folder(tmp_path / "w", {"episode_000000.parquet": table()})
    refused(wrong, "holds data/chunk-000/episode_000000.parquet and nothing like")
    refused(folder(tmp_path / "none", {}), "holds no parquet files; download them as well")


def test_files_of_episodes_that_nobody_counts(tmp_path: Path) -> None:
    """As in public folders of v2.1: LeRobot opens no file past ``total_episodes``."""
    starts = np.cumsum([0, *LENGTHS])
    old = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    files = {f"episode_{e:06d}.parquet": table().slice(starts[e], n) for e, n in enumerate(LENGTHS)}
    files |= {f"episode_{e:06d}.parquet": pa.table({"arm": [1, 2]}) for e in (3, 65)}
    path = folder(tmp_path / "lr", files, codebase_version="v2.1", data_path=old)
    same_rows(path)
    (line,) = convert(path, tmp_path / "a.zarr").lost
    name = "data/chunk-000/episode_000003.parquet"
    assert line == f"{name} (and 1 more files that info.json does not count)"


def test_a_step_that_is_there_twice(tmp_path: Path) -> None:
    files = {"file-000.parquet": table(), "file-001.parquet": table().slice(14, 3)}
    words = "episode 1 step 2 is there twice, in data/chunk-000/file-000.parquet and data/chunk"
    refused(folder(tmp_path / "lr", files), words, "keep one of the files")


@pytest.mark.parametrize(
    ("rows", "info", "words"),
    [
        ((0, 19), {}, "episode 2 is missing: 2 episodes of 3 are numbered up to 1"),
        ((12, N), {}, "episode 0 is missing: 2 episodes of 3 are numbered up to 2"),
        ((0, N - 1), {}, "episode 2 has 8 of the 9 steps it should have"),
        ((1, N), {}, "episode 0 has no step 0, the next is 1"),
        ((0, N), {"total_frames": 40}, "28 of the 40 steps that info.json counts are there"),
        ((0, N), {"total_frames": 20}, "28 steps are there, info.json counts 20"),
        ((0, N), {"total_episodes": 5}, "episode 3 is missing: 3 episodes of 5"),
    ],
)
def test_incomplete_downloads(
    tmp_path: Path, rows: tuple[int, int], info: dict[str, int], words: str
) -> None:
    start, stop = rows
    files = {"file-000.parquet": table().slice(start, stop - start)}
    refused(folder(tmp_path / "lr", files, **info), words)


RAGGED = [[float(t)] * (1 + t % 3) for t in range(N)]
GAPS: list[Any] = [[float(t), 1.0] for t in range(N)]
GAPS[5] = None
HOLES: list[Any] = [[float(t), 1.0] for t in range(N)]
HOLES[5] = [None, 1.0]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (RAGGED, "has 1 to 3 values a row, info.json says (2,)"),
        (GAPS, "has 1 rows without a value"),
        (HOLES, "has 1 values that are missing"),
        ([[1.0, 2.0, 3.0]] * N, "has steps of shape (3,), info.json says (2,)"),
        ([1.0] * N, "has steps of shape (), info.json says (2,)"),
        ([[[1.0], [2.0]]] * N, "has steps of shape (2, 1), info.json says (2,)"),
        ([[[1.0] * (1 + t % 2), [2.0]] for t in range(N)], "has 1 to 2 values a row"),
    ],
)
def test_columns_whose_values_would_shift(tmp_path: Path, column: Any, words: str) -> None:
    """A column that is not as wide in every row is refused, and does not stop the others."""
    more = {"points": {"dtype": "float64", "shape": [2], "names": None}}
    files = {"file-000.parquet": with_column("points", pa.array(column))}
    path = folder(tmp_path / "lr", files, more=more)
    refused(path, "points", words, "leave_out=[points] leaves it out")
    found = convert(path, tmp_path / "b.zarr", leave_out=["points"])
    assert (found.fields, found.lost) == (("observation.state", "action"), ("points",))
    assert "cannot be read: points" in summary(path)
    report = validate(path)
    assert [f.check for f in report.findings if f.level == "error"] == ["read"]


def test_nested_and_flat_columns_of_one_shape(tmp_path: Path) -> None:
    values = np.arange(N * 6.0).reshape(N, 3, 2)
    for name, column in (("nested", values.tolist()), ("flat", values.reshape(N, 6).tolist())):
        more = {"m": {"dtype": "float64", "shape": [3, 2], "names": None}}
        files = {"file-000.parquet": with_column("m", pa.array(column))}
        (path := tmp_path / name).mkdir()
        convert(folder(path / "lr", files, more=more), path / "a.zarr")
        np.testing.assert_array_equal(open_replay(path / "a.zarr").arrays["m"], values)


NUMERIC = ["float32", "float64", "int64", "int32", "int8", "uint8", "bool", "float16"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(NUMERIC),
    st.sampled_from(NUMERIC),
    st.lists(st.sampled_from([0, 1, 2, -1, 0.5, 300, 2**40, 1e300, 0.1]), min_size=1, max_size=4),
)
def test_casts_lose_nothing_or_are_refused(stored: str, said: str, values: list[float]) -> None:
    from pcm_policy.datasets.formats.lerobot_columns import column_values

    with np.errstate(all="ignore"):
        given_values = np.array(values).astype(stored)
    column = pa.array(given_values)
    with np.errstate(all="ignore"):
        cast = given_values.astype(said)
    floats = stored.startswith("float") and said.startswith("float")
    exact = [float(x) for x in cast.tolist()] == [float(x) for x in given_values.tolist()]
    if exact or (floats and np.array_equal(cast, given_values, equal_nan=True)):
        found = column_values(Path("lr"), column, "x", np.dtype(said))
        assert found.dtype == np.dtype(said)
        np.testing.assert_array_equal(found, cast)
    else:
        with pytest.raises(PcmError, match=f"{stored} that {said}, which info.json says, cannot"):
            column_values(Path("lr"), column, "x", np.dtype(said))


def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    """Texts, language, depth, times, structures: named, never an error, never silent."""
    said = pa.array([[{"role": "user"}]] * N, pa.list_(pa.struct([("role", pa.string())])))
    whole = table().append_column("language_events", said)
    whole = whole.append_column("note", pa.array(["a"] * N))
    whole = whole.append_column("says_float", pa.array(["a"] * N))
    whole = whole.append_column("at", pa.array(np.arange(N), pa.timestamp("s")))
    whole = whole.append_column("nobody", pa.array(np.arange(N)))
    kinds = {"language_events": "language", "note": "string", "says_float": "float32", "at": "time"}
    more: dict[str, Any] = {k: {"dtype": v, "shape": [1]} for k, v in kinds.items()}
    more["next.success"] = {"dtype": "bool", "shape": [1]}
    more["depth"] = {"dtype": "video", "shape": [4, 4, 3], "info": {"video.is_depth_map": True}}
    more["top"] = {"dtype": "video", "shape": [4, 4, 3]}
    path = folder(tmp_path / "lr", {"file-000.parquet": whole}, more=more)
    found = convert(path, tmp_path / "a.zarr")
    assert found.fields == ("observation.state", "action")
    assert set(found.lost) == {
        "language_events (language)",
        "note (string)",
        "says_float (float32 in info.json, string in the files)",
        "at (time)",
        "nobody (in the parquet files, not in info.json)",
        "next.success (in info.json, in no parquet file)",
        "depth (a video of depths)",
        "top (video): images=[top] decodes it",
    }
    convert(path, tmp_path / "b.zarr", leave_out=["next.success", "depth", "note"])
    refused(path, "depth is a video of depths", target="c.zarr", images=["depth"])


def test_columns_that_others_leave_out(tmp_path: Path) -> None:
    for name in ("task_index", "timestamp", "index"):
        files = {"file-000.parquet": table().drop_columns([name])}
        same_rows(folder(tmp_path / name, files))
    for name in ("episode_index", "frame_index"):
        files = {"file-000.parquet": table().drop_columns([name])}
        path = folder(tmp_path / name, files)
        refused(path, f"lacks the column {name}, which LeRobot writes", "write it again")


def test_a_column_that_one_file_lacks(tmp_path: Path) -> None:
    first = with_column("force", pa.array(np.ones(N))).slice(0, 12)
    files = {"file-000.parquet": first, "file-001.parquet": table().slice(12)}
    more = {"force": {"dtype": "float64", "shape": [1]}}
    path = folder(tmp_path / "lr", files, more=more)
    refused(path, "file-001.parquet: lacks the column force", "leave_out=[force]")
    convert(path, tmp_path / "a.zarr", leave_out=["force"])


@pytest.mark.parametrize("fps", [0, -1, "fast", None, True, float("nan"), float("inf")])
def test_rates(tmp_path: Path, fps: Any) -> None:
    path = folder(tmp_path / "lr", {"file-000.parquet": table()}, fps=fps)
    refused(path, "meta/info.json: has fps", "write the rate of the recording there")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (None, "features: x: is None"),
        ([1], "features: x: is [1]"),
        ({"shape": [1]}, "features: x: has dtype None"),
        ({"dtype": 3, "shape": [1]}, "features: x: has dtype 3"),
        ({"dtype": "float32"}, "features: x: has shape None"),
        ({"dtype": "float32", "shape": 3}, "features: x: has shape 3"),
        ({"dtype": "float32", "shape": ["a"]}, "features: x: has shape ['a']"),
        ({"dtype": "float32", "shape": [0]}, "features: x: has shape [0]"),
        ({"dtype": "float32", "shape": [-1, 2]}, "features: x: has shape [-1, 2]"),
        ({"dtype": "float32", "shape": [10**6, 10**6]}, "more values than a step can hold"),
        ({"dtype": "float32", "shape": [1] * 40}, "more values than a step can hold"),
        ({"dtype": "image", "shape": [3]}, "is a camera of shape [3]"),
        ({"dtype": "video", "shape": [10**5, 10**5, 3]}, "more values than a step can hold"),
    ],
)
def test_shapes_and_types_of_features(tmp_path: Path, about: Any, words: str) -> None:
    path = folder(tmp_path / "lr", {"file-000.parquet": table()}, more={"x": about})
    refused(path, "meta/info.json: features: x", words)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '"x"', "{}", '{"features": {}}'])
def test_info_that_is_none(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "lr", {"file-000.parquet": table()})
    (path / "meta/info.json").write_text(text)
    refused(path, "meta/info.json")


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    for place in ("data/chunk-000/file-000.parquet", "meta/info.json", "meta/tasks.parquet"):
        path = folder(tmp_path / place.replace("/", "_"), {"file-000.parquet": table()})
        (path / place).write_text(text)
        refused(path, place, "is a Git LFS pointer, not the data; git lfs pull fetches them")


RESERVED = ("timestamp", "index", "episode_index", "frame_index", "task_index")


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("name", RESERVED)
def test_names_that_lerobot_writes_itself(tmp_path: Path, name: str, version: Any) -> None:
    """A source's own array neither replaces LeRobot's column nor vanishes."""
    values = np.arange(6.0).reshape(3, 2)
    for width, column in (("wide", values), ("narrow", values[:, :1]), ("flat", values[:, 0])):
        source = tmp_path / f"{width}.zarr"
        write_replay(source, [{"action": values, name: column}, {"action": values, name: column}])
        target = f"lr_{width}"
        with pytest.raises(PcmError, match="is the name of a column that LeRobot writes itself"):
            convert(source, tmp_path / target, fps=10, lerobot_version=version)
        convert(
            source,
            tmp_path / target,
            fps=10,
            lerobot_version=version,
            rename={name: f"observation.{name}"},
        )
        convert(tmp_path / target, tmp_path / f"{width}_back.zarr")
        back = open_replay(tmp_path / f"{width}_back.zarr")
        assert back.episode_ends.tolist() == [3, 6]
        np.testing.assert_array_equal(back.arrays[f"observation.{name}"][:3], column, strict=True)


def test_two_arrays_of_one_place_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for number, (one, two) in enumerate(
        [("action", "actions"), ("reward", "rewards"), ("obs.x", "x"), ("done", "dones")]
    ):
        source = tmp_path / f"{number}.zarr"
        write_replay(source, [{one: np.ones(3), two: np.zeros(3), "action.": np.ones(3)}])
        with pytest.raises(PcmError, match=r"where .* goes; rename=.*leave_out="):
            convert(source, tmp_path / f"{number}.hdf5")
    with pytest.raises(PcmError, match="goes to actions, where action goes"):
        convert(tmp_path / "0.zarr", "minari:a-v0")


def test_irregular_and_missing_times(tmp_path: Path) -> None:
    times = (STEPS / 10 + 0.05).astype(np.float32)
    at = table().column_names.index("timestamp")
    odd = table().set_column(at, "timestamp", pa.array(times))
    convert(folder(tmp_path / "lr", {"file-000.parquet": odd}), tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_replay(tmp_path / "a.zarr").arrays["timestamp"], times)
    convert(tmp_path / "a.zarr", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "b.zarr")  # its own times stay its own
    np.testing.assert_array_equal(open_replay(tmp_path / "b.zarr").arrays["timestamp"], times)
    nan = table().set_column(at, "timestamp", pa.array(np.full(N, np.nan, np.float32)))
    path = folder(tmp_path / "nan", {"file-000.parquet": nan})
    with pytest.raises(PcmError, match=r"timestamp holds NaN or inf at step 0.*leave_out="):
        convert(path, tmp_path / "c.zarr")


def test_byte_order_and_types_that_arrow_has_not(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", [{"action": np.arange(4.0).astype(">f4").reshape(2, 2)}])
    convert(tmp_path / "a.zarr", tmp_path / "lr", fps=10)
    convert(tmp_path / "lr", tmp_path / "b.zarr")
    assert open_replay(tmp_path / "b.zarr").arrays["action"].tolist() == [[0, 1], [2, 3]]
    info = json.loads((tmp_path / "lr/meta/info.json").read_text())
    assert info["features"]["action"]["dtype"] == "float32"


def test_helper_makes_lists_of_one_length() -> None:
    assert pairs(np.ones((2, 3))).to_pylist() == [[1.0] * 3] * 2
