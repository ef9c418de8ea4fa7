from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.doctor.report import Report, format_report, summary, validate
from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError

Arrays = dict[str, NDArray[Any]]
LENGTHS = (60, 80, 100, 70, 90) * 3
ENDS = np.cumsum(LENGTHS)


def make_arrays(lag: int = 2) -> Arrays:
    """A point that walks smoothly, commanded ``lag`` steps ahead, with a still image."""
    rng = np.random.default_rng(0)
    position, action = [], []
    for length in LENGTHS:
        steps = np.arange(length + 20)[:, None] / 15 + rng.uniform(0, 6, size=2)
        walk = 250 + 200 * np.sin(steps)
        position.append(walk[10 : 10 + length])
        action.append(walk[10 + lag : 10 + lag + length])
    n = sum(LENGTHS)
    return {
        "action": np.concatenate(action).astype(np.float32),
        "state": np.concatenate([np.concatenate(position), rng.normal(size=(n, 1))], axis=1),
        "img": np.zeros((n, 16, 16, 3), dtype=np.uint8),
    }


def write(path: Path, arrays: Arrays, ends: Any = ENDS) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for key, values in arrays.items():
        root.create_array(f"data/{key}", data=values, config={"write_empty_chunks": True})
    root.create_array("meta/episode_ends", data=np.asarray(ends))
    return path


def findings(path: Path, **options: Any) -> list[Finding]:
    """Errors and warnings alone, each with a message and a fix."""
    report = validate(path, **options)
    found = [finding for finding in report.findings if finding.level != "note"]
    assert all(finding.message and finding.fix for finding in found)
    assert report.ok == all(finding.level != "error" for finding in found)
    return found


def only(path: Path, check: str, **options: Any) -> Finding:
    found = findings(path, **options)
    assert [finding.check for finding in found] == [check]
    return found[0]


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_arrays())
    assert findings(path) == []
    report = validate(path, obs=["state"], position="state[0:2]")
    assert [(f.level, f.message) for f in report.findings] == [
        ("note", "state[0:2] follows the action at a lag of 2")
    ]


def test_store_that_does_not_open(tmp_path: Path) -> None:
    assert only(tmp_path / "none.zarr", "store").level == "error"
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "unzipped" in only(tmp_path / "a.zip", "store").message


def test_everything_is_found_at_once(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["state"][3, 1] = np.nan
    arrays["action"] = arrays["action"][:-5]
    path = write(tmp_path / "a.zarr", arrays, [50, 50, 40, 9000])
    found = findings(path, obs=["state", "force"])
    assert [f.check for f in found] == ["lengths", *["episodes"] * 3, "finite", "arrays"]
    assert {f.level for f in found} == {"error"}
    assert "row 3" in found[4].message
    assert "data/force: missing; data holds action, img, state" in found[5].message


@pytest.mark.filterwarnings("ignore:Object at episode_ends")
def test_missing_episode_ends_does_not_stop_the_rest(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["state"][3, 1] = np.inf
    path = write(tmp_path / "a.zarr", arrays)
    (path / "meta" / "episode_ends" / ".zarray").unlink()
    assert [f.check for f in findings(path)] == ["episodes", "finite"]


@pytest.mark.parametrize("field", ["state[1:9]", "state[x]"])
def test_bad_field(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "a.zarr", make_arrays())
    assert field in only(path, "arrays", obs=[field]).message


def test_lost_and_damaged_chunks(tmp_path: Path) -> None:
    write_replay(tmp_path / "a.zarr", [make_arrays()])
    chunk = tmp_path / "a.zarr" / "data" / "img" / "0.0.0.0"
    chunk.write_bytes(b"nonsense")
    assert "data/img: cannot be decoded" in only(tmp_path / "a.zarr", "read", obs=["img"]).message
    chunk.unlink()
    found = only(tmp_path / "a.zarr", "chunks", obs=["img"])
    assert found.level == "warning"
    assert "data/img: 1 of 1 chunks are not stored" in found.message


def test_arrays_without_rows_numbers_or_columns(tmp_path: Path) -> None:
    odd = {"scalar": np.array(3.0), "text": np.array(["a"] * 1200), "empty": np.zeros((0, 2))}
    path = write(tmp_path / "a.zarr", {**make_arrays(), **odd, "thin": np.zeros((1200, 0))})
    found = findings(path)
    assert [finding.check for finding in found] == ["lengths", "lengths"]
    assert {finding.message.split(":")[0] for finding in found} == {"data/scalar", "data/empty"}


def test_constant_column(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["state"][:, 2] = 7
    found = only(write(tmp_path / "a.zarr", arrays), "constant")
    assert "state: columns 2 of 3" in found.message


def test_outlier(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["action"][100, 1] = 5000
    found = only(write(tmp_path / "a.zarr", arrays), "range")
    assert "5000 in column 1 at row 100 (episode 1)" in found.message


def test_short_episode(tmp_path: Path) -> None:
    found = only(write(tmp_path / "a.zarr", make_arrays(), [3, *ENDS]), "short")
    assert "1 of 16 episodes have fewer than 8 steps and give no window: 0" in found.message


def test_repeated_frames(tmp_path: Path) -> None:
    arrays = make_arrays()
    for start in ENDS - 20:
        for key in ("action", "state"):
            arrays[key][start : start + 10] = arrays[key][start]
    found = only(write(tmp_path / "a.zarr", arrays), "repeats", obs=["state[0:2]"])
    assert f"first at row {ENDS[0] - 19} (episode 0)" in found.message


def test_missing_episode_boundary(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_arrays(), np.delete(ENDS, 3))
    found = only(path, "jumps", obs=["state[0:2]"])
    assert f"1 jumps within episodes, the largest before row {ENDS[3]} (episode 3)" in found.message


def test_wrapping_angle_is_a_jump(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["state"][:, 2] = np.arange(len(arrays["state"])) * 0.05 % (2 * np.pi)
    found = only(write(tmp_path / "a.zarr", arrays), "jumps")
    assert found.message.endswith("column 2")
    assert "sine and cosine" in found.fix


@pytest.mark.parametrize(("lag", "level"), [(-3, "error"), (-1, "error"), (0, "warning")])
def test_late_actions(tmp_path: Path, lag: int, level: str) -> None:
    path = write(tmp_path / "a.zarr", make_arrays(lag))
    found = only(path, "alignment", position="state[0:2]")
    assert found.level == level
    assert f"at a lag of {lag}:" in found.message
    assert f"shift the actions {1 - lag} or more steps earlier" in found.fix


def test_actions_that_are_no_targets(tmp_path: Path) -> None:
    arrays = make_arrays()
    arrays["action"] /= 500
    path = write(tmp_path / "a.zarr", arrays)
    assert "units" in only(path, "alignment", position="state[0:2]").fix
    assert "columns" in only(path, "alignment", position="state[0:1]").fix


def test_report_is_a_table() -> None:
    report = Report(
        Path("a.zarr"),
        (
            Finding("error", "finite", "long " * 30, "mend it"),
            Finding("note", "alignment", "ok", ""),
        ),
    )
    lines = format_report(report).splitlines()
    assert lines[0] == "a.zarr: 1 error, 0 warnings, 1 note"
    assert lines[1].startswith("error    finite     long long")
    assert lines[2].startswith(" " * 20 + "long")
    assert lines[-2:] == [" " * 20 + "fix: mend it", "note     alignment  ok"]
    assert max(map(len, lines)) <= 100


def test_summary(tmp_path: Path) -> None:
    lines = summary(write(tmp_path / "a.zarr", make_arrays())).splitlines()
    assert lines[1] == "15 episodes, 1200 rows; 60 to 100 steps, median 80"
    assert [line.split()[0] for line in lines[2:]] == ["array", "action", "img", "state"]
    assert lines[4].split() == ["img", "(1200,", "16,", "16,", "3)", "uint8", "0", "to", "0"]
    with pytest.raises(PcmError, match="past the 1200 rows"):
        summary(write(tmp_path / "b.zarr", make_arrays(), [2000]))


def test_human_data(human_data: Path, tmp_path: Path) -> None:
    push_t: dict[str, Any] = {"obs": ["keypoint", "state[0:2]"], "position": "state[0:2]"}
    buffer = open_replay(human_data, ["action", "state", "keypoint"])

    def copy(name: str, shift: int) -> Path:
        episodes = [buffer.episode(i) for i in range(buffer.n_episodes)]
        for episode in episodes:
            rows = np.arange(len(episode["action"])) - shift
            episode["action"] = episode["action"][np.maximum(rows, 0)]
        write_replay(tmp_path / name, episodes)
        return tmp_path / name

    assert findings(copy("same.zarr", 0), **push_t) == []
    late = only(copy("late.zarr", 3), "alignment", **push_t)
    assert late.level == "error"
    assert "shift the actions 2 or more steps" in late.fix


@pytest.mark.slow
def test_human_data_with_images(human_data: Path) -> None:
    report = validate(human_data)
    assert report.ok
    assert [f.check for f in report.findings] == ["jumps"]  # the block angle wraps at 2 pi
    assert report.findings[0].message.endswith("column 4")


@pytest.mark.parametrize("offset", [0.0, 5.4e6, -5.4e6, 1e9])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_steps_that_float32_leaves(tmp_path: Path, offset: float, dtype: str) -> None:
    arrays = make_arrays()
    arrays["state"] = (arrays["state"] / 500 + offset).astype(dtype)
    span = np.ptp(arrays["state"].astype(float), axis=0)
    step = float(np.spacing(np.float32(max(abs(offset), 1))))
    checks = [f.check for f in findings(write(tmp_path / "a.zarr", arrays), obs=["state"])]
    assert ("precision" in checks) == bool(((span > 0) & (span < 1000 * step)).any())
    if offset and dtype == "f8":
        found = next(
            f for f in findings(tmp_path / "a.zarr", obs=["state"]) if f.check == "precision"
        )
        assert found.level == "warning"
        assert "float32 leaves fewer than 1000 steps" in found.message
        assert "subtract an origin" in found.fix


@pytest.mark.parametrize("key", ["state", "action"])
@pytest.mark.parametrize(("span", "named"), [(2.2e-5, True), (9e-5, True), (2e-4, False)])
def test_columns_that_hardly_change(tmp_path: Path, key: str, span: float, named: bool) -> None:
    arrays = make_arrays()
    values = arrays[key].astype(float)
    values[:, 0] = (values[:, 0] - values[:, 0].min()) / np.ptp(values[:, 0]) * span
    arrays[key] = values
    found = [f for f in findings(write(tmp_path / "a.zarr", arrays)) if f.check == "constant"]
    assert [f"{key}: columns 0 hardly change" in f.message for f in found] == [True] * named


@pytest.mark.parametrize(
    ("lengths", "level", "words"),
    [
        ((3, 3, 3, 3, 3, 60, 60), "warning", "5 of 7 episodes have fewer than 8 steps and give no"),
        ((7,) * 5, "error", "5 of 5 episodes have fewer than 8 steps and give no window"),
        ((1, 1, 1), "error", "3 of 3 episodes have fewer than 8 steps and give no window"),
        ((8, 200, 200, 200), "warning", "1 of 4 episodes have under a tenth of the median 200"),
        ((8, 9, 10), None, ""),
    ],
)
def test_episodes_that_give_no_window(
    tmp_path: Path, lengths: tuple[int, ...], level: str | None, words: str
) -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(size=(sum(lengths), 2)), 0)
    path = write(tmp_path / "a.zarr", {"action": walk}, np.cumsum(lengths))
    found = [f for f in validate(path).findings if f.check == "short"]
    assert [f.level for f in found] == ([level] if level else [])
    assert all(words in f.message for f in found)


def test_without_a_task_no_field_is_asked_for(tmp_path: Path) -> None:
    """Nothing of Push-T: neither its arrays, nor what its columns mean."""
    arrays = make_arrays()
    for number, names in enumerate([("qpos", "action"), ("state", "actions"), ("a", "b")]):
        own = dict(zip(names, (arrays["state"], arrays["action"]), strict=True))
        report = validate(write(tmp_path / f"{number}.zarr", own))
        assert report.findings == ()
    assert not validate(tmp_path / "0.zarr", obs=["state"]).ok
