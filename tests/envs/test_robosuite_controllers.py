"""Descriptions of robosuite 1.4 and 1.5, read without either of them."""

import json
import sys
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.envs.robosuite import Robosuite
from pcm_policy.envs.robosuite_controllers import (
    adapted,
    controls_deltas,
    described_series,
    series_of,
)
from pcm_policy.envs.robosuite_tasks import TASKS, check_env_args
from pcm_policy.errors import PcmError

h5py = pytest.importorskip("h5py")


def described(*controllers: Any, version: str | None = None) -> dict[str, Any]:
    configs = controllers[0] if len(controllers) == 1 else list(controllers)
    found = {"env_name": "Lift", "type": 1, "env_kwargs": {"controller_configs": configs}}
    return found | ({} if version is None else {"env_version": version})


def basic(**arms: dict[str, Any]) -> dict[str, Any]:
    return {"type": "BASIC", "body_parts": arms}


def osc(**settings: Any) -> dict[str, Any]:
    return {"type": "OSC_POSE", **settings}


def install(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let robosuite be of a version, or absent."""

    def found(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", found)


@pytest.mark.parametrize(
    ("version", "series"),
    [
        ("1.5.2", "1.5"),
        ("1.5.0rc1", "1.5"),
        ("1.10.0", "1.5"),
        ("2.0", "1.5"),
        ("1.4.1", "1.4"),
        ("1.2.0", "1.4"),
        ("0.3.0", "1.4"),
        ("newest", None),
        (None, None),
        (1.5, None),
    ],
)
def test_the_series_of_a_version(version: Any, series: str | None) -> None:
    assert series_of(version) == series


def test_the_series_of_a_description() -> None:
    for name, task in TASKS.items():
        for series in ("1.4", "1.5"):
            own = check_env_args(task.env_args(series), name)
            assert described_series(own, name) == series
            assert described_series({**own, "env_version": None}, name) == series
            assert json.loads(json.dumps(own)) == own
            assert controls_deltas(own, name)
    assert described_series(described(None), "x") == "1.4"  # robosuite's own choice of controller
    assert described_series(described(None, version="1.5.1"), "x") == "1.5"
    assert described_series(described(basic(right=osc()), basic(right=osc())), "x") == "1.5"


@pytest.mark.parametrize(
    ("controller", "version", "wanted"),
    [
        (basic(right=osc()), "1.4.1", "a type such as OSC_POSE alone"),
        (osc(), "1.5.1", "BASIC with body_parts"),
    ],
)
def test_a_version_whose_controllers_are_others(
    controller: dict[str, Any], version: str, wanted: str
) -> None:
    message = f"FILE: env_args has env_version {version}, whose controller_configs are {wanted}"
    with pytest.raises(PcmError, match=message):
        check_env_args(described(controller, version=version), "FILE")


@pytest.mark.parametrize(
    ("controllers", "deltas"),
    [
        ([osc()], True),
        ([osc(control_delta=True)], True),
        ([osc(control_delta=False)], False),
        ([osc(), osc(control_delta=True)], True),
        ([basic(right=osc())], True),
        ([basic(right=osc(control_delta=True))], True),
        ([basic(right=osc(control_delta=False))], False),  # robomimic's way to say it
        ([basic(right=osc(input_type="absolute"))], False),
        ([basic(right=osc(input_type="absolute", control_delta=True))], False),  # as 1.5 takes it
        ([basic(right=osc(input_type="delta", control_delta=False))], True),
        ([basic(arms={"right": osc(input_type="absolute")})], False),
        ([basic(right=osc(), torso={"type": "JOINT_POSITION"})], True),
        ([basic(right=osc(control_delta=False)), basic(right=osc(input_type="absolute"))], False),
    ],
)
def test_deltas_and_what_absolute_makes_of_them(
    controllers: list[dict[str, Any]], deltas: bool
) -> None:
    own = described(*controllers)
    before = deepcopy(own)
    assert controls_deltas(own, "x") is deltas
    assert controls_deltas(adapted(own, "delta", "x"), "x") is deltas
    assert controls_deltas(adapted(own, "absolute", "x"), "x") is False
    assert own == before


def test_robosuite_itself_is_told_the_input_type() -> None:
    for part in (osc(control_delta=False), osc(input_type="absolute")):
        for parts in (basic(right=part), basic(arms={"right": part})):
            (found,) = adapted(described(parts), "delta", "x")["env_kwargs"].values()
            assert found["body_parts"]["right"]["input_type"] == "absolute"
            assert "arms" not in found["body_parts"]
    (found,) = adapted(described(basic(right=osc())), "delta", "x")["env_kwargs"].values()
    assert found["body_parts"]["right"]["input_type"] == "delta"
    ik = {"type": "IK_POSE", "control_delta": False}
    (found,) = adapted(described(basic(right=ik)), "delta", "x")["env_kwargs"].values()
    assert found["body_parts"]["right"] == ik  # which has control_delta itself


@pytest.mark.parametrize(
    ("controllers", "message"),
    [
        ([{"type": "JOINT_POSITION"}], "OSC_POSE, not JOINT_POSITION"),
        ([basic(right={"type": "IK_POSE"}, left=osc())], "OSC_POSE, not IK_POSE, OSC_POSE"),
        ([basic(head={"type": "JOINT_POSITION"})], "OSC_POSE, not {'type': 'BASIC'"),
        ([{"type": "BASIC", "body_parts": 3}], "OSC_POSE, not {'type': 'BASIC'"),
        ([None], "OSC_POSE, not None: use control='delta'"),
        ([osc(), osc(control_delta=False)], "one arm takes deltas and another one absolute"),
    ],
)
def test_what_has_no_absolute_actions(controllers: list[Any], message: str) -> None:
    with pytest.raises(PcmError, match="FILE: .*" + message):
        adapted(described(*controllers), "absolute", "FILE")


@pytest.mark.parametrize(
    ("installed", "series", "extra"),
    [
        ("1.4.1", "1.5", "robomimic"),
        ("1.5.2", "1.4", "robomimic14"),
        ("1.5.1", "1.4", "robomimic14"),
    ],
)
def test_a_file_of_the_other_robosuite_is_refused(
    installed: str, series: Any, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, monkeypatch)
    own = TASKS["Lift"].env_args(series)
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(own)
    message = rf"robosuite {series}, and {installed} is installed.*pip install .*\[{extra}\]'"
    with pytest.raises(PcmError, match=f"{path}: .*{message}"):
        Robosuite(dataset=path)
    with pytest.raises(PcmError, match=f"env_args: .*{message}"):
        Robosuite(env_args=own, control="delta")


@pytest.mark.parametrize(
    ("installed", "extra"), [(None, "robomimic"), ("1.5.2", "robomimic"), ("1.4.1", "robomimic14")]
)
def test_the_line_that_installs_what_is_missing(
    installed: str | None, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, monkeypatch)
    monkeypatch.setitem(sys.modules, "six", None)
    with pytest.raises(PcmError, match=rf"need six: pip install .*'\.\[{extra}\]'"):
        Robosuite("Lift")
