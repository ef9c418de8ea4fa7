"""Bad robomimic files: each gives one line with the file, the key and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.doctor.report import format_report, summary, validate
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError

h5py = pytest.importorskip("h5py")
OBS = ["object"]


def good(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for i, steps in enumerate((30, 40, 35)):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = steps
            walk = np.sin(np.arange(steps + 4)[:, None] / 7 + rng.uniform(0, 6, 3))
            demo["actions"] = walk[4:]
            demo["rewards"], demo["dones"] = np.zeros(steps), np.arange(steps) == steps - 1
            demo["states"] = rng.normal(size=(steps, 5))
            demo["obs/object"] = walk[:-4]
            demo["next_obs/object"] = walk[1:-3]
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {}}
        file["data"].attrs.update(env_args=json.dumps(env_args), total=105)
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return path


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    path = good(tmp_path / "good.hdf5")
    report = validate(path, obs=OBS, filter_key="train")
    assert report.findings == ()
    assert "3 episodes, 105 rows" in summary(path)
    assert "filter keys: train (2)" in summary(path)


def no_demonstrations(file: Any) -> None:
    del file["data"]


def no_env_args(file: Any) -> None:
    del file["data"].attrs["env_args"]


def env_args_not_json(file: Any) -> None:
    file["data"].attrs["env_args"] = "{'env_name': 'Lift'}"


def env_args_incomplete(file: Any) -> None:
    file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {}})


def filter_key_of_absent_demos(file: Any) -> None:
    file["mask/valid"] = np.array([b"demo_7"])


def rows_too_few(file: Any) -> None:
    values = file["data/demo_1/obs/object"][:-3]
    del file["data/demo_1/obs/object"]
    file["data/demo_1/obs/object"] = values


def other_width(file: Any) -> None:
    values = file["data/demo_2/actions"][:, :2]
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = values


def key_missing_in_one(file: Any) -> None:
    del file["data/demo_1/obs/object"]


def not_finite(file: Any) -> None:
    file["data/demo_2/obs/object"][4, 1] = np.nan


def no_steps(file: Any) -> None:
    demo = file["data/demo_1"]
    demo.attrs["num_samples"] = 0
    for name in ("actions", "rewards", "dones", "states", "obs/object", "next_obs/object"):
        values = demo[name][:0]
        del demo[name]
        demo[name] = values


def no_num_samples(file: Any) -> None:
    del file["data/demo_0"].attrs["num_samples"]


def no_actions(file: Any) -> None:
    for i in range(3):
        del file[f"data/demo_{i}/actions"]


BAD: list[tuple[Callable[[Any], None], str, str]] = [
    (no_demonstrations, "store", "data: holds nothing"),
    (no_env_args, "env_args", "data.attrs[env_args]: missing"),
    (env_args_not_json, "env_args", "data.attrs[env_args]: is not JSON"),
    (env_args_incomplete, "env_args", "data.attrs[env_args]: holds env_name, env_kwargs"),
    (filter_key_of_absent_demos, "filter", "mask/valid: names demo_7"),
    (rows_too_few, "lengths", "data/demo_1/obs/object: has shape (37, 3)"),
    (other_width, "shapes", "data/demo_2/actions: has steps of (2,) float64, demo_0 of (3,)"),
    (key_missing_in_one, "arrays", "data/demo_1/obs/object: missing, demo_0 has it"),
    (not_finite, "finite", "data/demo_2/obs/object: NaN or inf in 1 rows, first at step 4"),
    (no_steps, "lengths", "data/demo_1: holds no steps"),
    (no_num_samples, "samples", "data/demo_0.attrs[num_samples]: missing"),
    (no_actions, "arrays", "data/demo_0/actions: missing; demo_0 holds"),
]
UNTRAINABLE = {
    *("no_demonstrations", "rows_too_few", "other_width", "key_missing_in_one", "not_finite"),
    *("no_steps", "no_actions"),
}


@pytest.mark.parametrize(("spoil", "check", "message"), BAD, ids=[b[0].__name__ for b in BAD])
def test_each_fault_is_one_line(
    tmp_path: Path, spoil: Callable[[Any], None], check: str, message: str
) -> None:
    path = good(tmp_path / "bad.hdf5")
    with h5py.File(path, "a") as file:
        spoil(file)
    report = validate(path, obs=OBS)
    errors = [finding for finding in report.findings if finding.level == "error"]
    assert not report.ok
    assert [finding.check for finding in errors] == [check]
    assert message in errors[0].message
    assert errors[0].fix
    assert "\n" not in errors[0].message + errors[0].fix
    assert format_report(report).startswith(f"{path}: 1 error,")
    if spoil.__name__ in UNTRAINABLE:
        with pytest.raises(PcmError) as caught:
            open_demonstrations(path, ["object", "action"])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        open_demonstrations(path, ["object", "action"])


def test_truncated_files_and_other_files(tmp_path: Path) -> None:
    path = good(tmp_path / "cut.hdf5")
    content = path.read_bytes()
    for spoiled in (content[: len(content) // 2], b"", b"not HDF5 at all"):
        path.write_bytes(spoiled)
        (finding,) = validate(path, obs=OBS).findings
        assert (finding.level, finding.check) == ("error", "store")
        assert "cannot be opened" in finding.message
        assert "copy it again" in finding.fix
        for read in (summary, open_demonstrations):
            with pytest.raises(PcmError, match="cannot be opened") as caught:
                read(path)
            assert str(path) in str(caught.value)


def test_a_filter_key_that_is_asked_for(tmp_path: Path) -> None:
    path = good(tmp_path / "good.hdf5")
    (finding,) = validate(path, obs=OBS, filter_key="test").findings
    assert finding.message == "mask/test: missing; the file has train"
    assert finding.fix == "name one of these, or leave filter_key out"


def test_an_observation_key_that_is_asked_for(tmp_path: Path) -> None:
    path = good(tmp_path / "good.hdf5")
    (finding,) = validate(path, obs=["object", "robot0_eef_pos"]).findings
    assert "data/robot0_eef_pos: missing; data holds" in finding.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (finding,) = validate(tmp_path / "none.hdf5").findings
    assert "No such file" in finding.message or "cannot be opened" in finding.message
