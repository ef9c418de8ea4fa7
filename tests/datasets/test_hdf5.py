"""HDF5 files as other projects write them, and arrays in them that nobody can read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError

h5py = pytest.importorskip("h5py", reason="pip install 'pcm_policy[convert]'")
STEPS = (9, 8)
TARGETS = ("t.zarr", "t_lr", "t.hdf5", "minari:tt/t-v0")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def healthy(path: Path, env: dict[str, Any] | None = None) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for i, steps in enumerate(STEPS):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = steps
            demo["actions"] = rng.normal(size=(steps, 2)).astype(np.float32)
            demo["obs/state"] = rng.normal(size=(steps, 3)).astype(np.float32)
        about = {"env_name": "arm", "type": 2, "env_kwargs": {}} if env is None else env
        file["data"].attrs["env_args"] = json.dumps(about)
    return path


def text_each_step(demo: Any, steps: int) -> None:
    demo["obs/odd"] = np.array(["reach"] * steps, dtype=h5py.string_dtype())


def fixed_text(demo: Any, steps: int) -> None:
    demo["obs/odd"] = np.array([b"reach"] * steps)


def ragged(demo: Any, steps: int) -> None:
    kind = h5py.vlen_dtype(np.float32)
    demo.create_dataset("obs/odd", (steps,), dtype=kind)


def structures(demo: Any, steps: int) -> None:
    demo["obs/odd"] = np.zeros(steps, [("x", "f4"), ("y", "i4")])


def complex_numbers(demo: Any, steps: int) -> None:
    demo["obs/odd"] = np.zeros(steps, np.complex64)


def empty(demo: Any, steps: int) -> None:
    demo["obs/odd"] = h5py.Empty("f4")


def dangling(demo: Any, steps: int) -> None:
    demo["obs/odd"] = h5py.SoftLink("/nowhere")


def scalar(demo: Any, steps: int) -> None:
    demo["odd"] = 3.5


def one_a_subtask(demo: Any, steps: int) -> None:
    demo["odd"] = np.array([3, 7])


def one_an_episode(demo: Any, steps: int) -> None:
    demo["odd/articulation/robot"] = np.ones((1, 9), np.float32)


NO_ARRAYS = [
    *(text_each_step, fixed_text, ragged, structures, complex_numbers, empty, dangling),
    *(scalar, one_a_subtask, one_an_episode),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("add", NO_ARRAYS, ids=lambda f: f.__name__)
def test_what_is_no_array_of_steps_is_named(tmp_path: Path, add: Any, target: str) -> None:
    """It stops neither info, validate, training nor any conversion, and is never silent."""
    if target.startswith("minari"):
        pytest.importorskip("minari")
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i, steps in enumerate(STEPS):
            add(file[f"data/demo_{i}"], steps)
    place = target if target.startswith("minari:") else tmp_path / target
    found = convert(path, place, fps=10)
    assert set(found.fields) == {"actions", "state"}
    (line,) = found.lost
    assert line.startswith("odd")
    name = line.partition(" ")[0]
    assert f"no array: {name}" in summary(path)
    report = validate(path)
    assert report.ok
    assert any(name in f.message for f in report.findings if f.level == "note")
    assert set(open_demonstrations(path).arrays) == {"actions", "state"}
    with pytest.raises(PcmError, match="no array of numbers with a row a step"):
        open_demonstrations(path, [name])
    again = found if target != "t.zarr" else convert(path, tmp_path / "u.zarr", leave_out=[name])
    assert again.fields == found.fields


def other_type(demo: Any, number: int, steps: int) -> None:
    demo["obs/odd"] = np.ones((steps, 1), np.float32 if number else np.float64)


def other_width(demo: Any, number: int, steps: int) -> None:
    demo["obs/odd"] = np.ones((steps, 1 + number))


def rows_missing(demo: Any, number: int, steps: int) -> None:
    demo["obs/odd"] = np.ones((steps - number, 1))


def in_one_alone(demo: Any, number: int, steps: int) -> None:
    if number:
        demo["obs/odd"] = np.ones((steps, 1))


def not_in_one(demo: Any, number: int, steps: int) -> None:
    if not number:
        demo["obs/odd"] = np.ones((steps, 1))


DAMAGED = [other_type, other_width, rows_missing, in_one_alone, not_in_one]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("add", DAMAGED, ids=lambda f: f.__name__)
def test_one_damaged_array_leaves_the_others(tmp_path: Path, add: Any, target: str) -> None:
    if target.startswith("minari"):
        pytest.importorskip("minari")
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i, steps in enumerate(STEPS):
            add(file[f"data/demo_{i}"], i, steps)
    place = target if target.startswith("minari:") else tmp_path / target
    with pytest.raises(PcmError, match=r"obs/odd: .*leave_out=\[odd\] leaves it out"):
        convert(path, place, fps=10)
    found = convert(path, place, fps=10, leave_out=["odd"])
    assert (set(found.fields), found.lost) == ({"actions", "state"}, ("odd",))
    assert "cannot be read: odd" in summary(path)
    assert not validate(path).ok
    assert set(open_demonstrations(path, ["action", "state"]).arrays) == {"action", "state"}


def test_samples_are_counted_whatever_sorts_last(tmp_path: Path) -> None:
    convert(healthy(tmp_path / "a.hdf5"), tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert [file[f"data/demo_{i}"].attrs["num_samples"] for i in range(2)] == list(STEPS)
        assert file["data"].attrs["total"] == sum(STEPS)


def test_env_args_of_isaac_lab(tmp_path: Path) -> None:
    path = healthy(tmp_path / "a.hdf5", {"env_name": "Isaac-Lift", "type": 2})
    (note,) = validate(path).findings
    assert (note.level, note.check) == ("note", "env_args")
    for text in ("[" * 100_000, "{", "3", '"x"'):
        with h5py.File(path, "r+") as file:
            file["data"].attrs.create("env_args", text, dtype=h5py.string_dtype())
        assert [f.check for f in validate(path).findings] == ["env_args"]
        summary(path)


def test_a_filter_that_is_not_installed(tmp_path: Path) -> None:
    """Written raw with a filter number that nobody has, as by another library's plugin."""
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i, steps in enumerate(STEPS):
            kind = h5py.h5t.py_create(np.dtype("f4"))
            made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            made.set_chunk((steps,))
            made.set_filter(32_700, h5py.h5z.FLAG_OPTIONAL, (1,))
            group = file[f"data/demo_{i}/obs"].id
            space = h5py.h5s.create_simple((steps,))
            made_id = h5py.h5d.create(group, b"packed", kind, space, made)
            made_id.write_direct_chunk((0,), np.ones(steps, "f4").tobytes())
    with pytest.raises(PcmError, match=r"the HDF5 filter 32700 .*; pip install hdf5plugin; leave_"):
        convert(path, tmp_path / "b.zarr")
    assert convert(path, tmp_path / "b.zarr", leave_out=["packed"]).lost == ("packed",)
    assert "cannot be read: packed" in summary(path)
    assert open_demonstrations(path, ["state"]).n_steps == sum(STEPS)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["episode_0/actions"], "the file inside a Minari data set"),
        (["action/joint_position", "observation/robot_state"], "as DROID records it"),
        (["something"], "data: holds something; expected data/demo_0"),
        (["data/something"], "data: holds something; expected data/demo_0"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name in names:
            file[name] = np.ones((5, 2))
    for use in (summary, open_demonstrations, lambda p: convert(p, tmp_path / "b.zarr")):
        with pytest.raises(PcmError) as caught:
            use(tmp_path / "a.hdf5")
        assert words in str(caught.value)
    assert not validate(tmp_path / "a.hdf5").ok


def test_links_inside_the_file_are_followed(tmp_path: Path) -> None:
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i in range(2):
            file[f"data/demo_{i}/obs/same"] = h5py.SoftLink(f"/data/demo_{i}/obs/state")
            file[f"data/demo_{i}/again"] = file[f"data/demo_{i}"]  # a circle
    convert(path, tmp_path / "b.zarr")
    arrays = open_replay(tmp_path / "b.zarr").arrays
    np.testing.assert_array_equal(arrays["same"], arrays["state"])
