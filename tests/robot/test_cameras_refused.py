"""Bad images, and damaged folders with cameras: one line that says what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import Controller, PlanRequest
from pcm_policy.errors import PcmError
from pcm_policy.robot import load
from pcm_policy.robot.folder import digest
from pcm_policy.serving.planner import Planner
from tests.robot.parts import seeing_robot
from tests.robot.test_folder import rewritten
from tests.seeing import CLIP, draw, glance, make

TOLERANCE = {"method": "picard", "tolerance": 1e-3}


@pytest.mark.parametrize(
    "change",
    [
        {"top": None},
        {"side": np.zeros(1)},
        {"top": draw(None)["top"].astype(np.float32)},
        {"top": draw(None)["top"].transpose(0, 3, 1, 2)},
        {"top": draw(None)["top"][:1]},
        {"top": draw(None)["top"][0]},
        {"wrist": draw(None)["wrist"][:, :1]},
        {"wrist": draw(None)["wrist"][..., 0]},
        {"state": draw(None)["state"][..., :2]},
    ],
    ids=range(9),
)
def test_bad_images_are_refused_as_by_the_policy(change: dict[str, Any]) -> None:
    policy, robot, _ = seeing_robot("clip", **TOLERANCE)
    obs = {k: v for k, v in (draw(None) | change).items() if v is not None}
    said = []
    for one in (policy, robot):
        with pytest.raises(PcmError) as caught:
            one.predict(obs)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[1]


def test_bad_observations() -> None:
    _, robot, _ = seeing_robot("clip", **TOLERANCE)
    with pytest.raises(PcmError, match="step 0: observation is not finite"):
        robot.predict(draw(None) | {"state": np.full((2, 3), np.nan)})
    with pytest.raises(PcmError, match="step 0: observation is out of range in dimension 0: 50"):
        robot.predict(draw(None) | {"state": np.full((2, 3), 50.0)})
    with pytest.raises(PcmError, match="one observation at a time"):
        robot.predict(draw(2))
    none = np.zeros((0, 2), np.float32)
    with pytest.raises(PcmError, match="has 0 frames: this policy has cameras and observes 2"):
        robot.plan(PlanRequest(0, 0, 0, 0.0, np.zeros((2, 3), np.float32), none))


def test_features_out_of_range_are_a_fault(tmp_path: Path) -> None:
    """As in the planner; and in ``predict``, where the policy says it of the vector's column."""
    folder = shutil.copytree(seeing_robot("clip", **TOLERANCE)[2], tmp_path / "robot")
    policy = make(CLIP)
    columns = [i for i in range(policy.config.obs_dim) if i not in CLIP.state_columns]
    policy.obs_normalizer.low[columns], policy.obs_normalizer.high[columns] = 90.0, 91.0
    high = [91.0] * len(columns)
    rewritten(folder, lambda v: v["cameras"].update(low=[90.0] * len(columns), high=high))
    robot = load(folder)
    with pytest.raises(PcmError, match="out of range"):
        policy.predict(draw(None))
    with pytest.raises(PcmError, match="features of the images are not finite, or out of range"):
        robot.predict(draw(None))
    controller = Controller(robot.spec)
    controller.observe(glance(0))
    request = controller.request()
    assert request is not None
    found, want = robot.plan(request).fault, Planner(policy).plan(request).fault
    assert found == want == "features of the images are not finite, or out of range"


def damaged(entry: str, value: Any) -> Callable[[Path], None]:
    """Return what changes an entry of the cameras."""
    return lambda f: rewritten(f, lambda v: v["cameras"].update({entry: value}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no encoder": (lambda f: (f / "encoder.onnx").unlink(), "encoder.onnx is missing"),
    "another encoder": (
        lambda f: shutil.copy(f / "end.onnx", f / "encoder.onnx"),
        "encoder.onnx is not the file",
    ),
    "no cameras": (
        lambda f: rewritten(f, lambda v: v.update(cameras=None)),
        "damaged .*encoder does not fit its cameras",
    ),
    "no images": (
        lambda f: rewritten(f, lambda v: v["spec"].update(cameras={})),
        "damaged .*encoder does not fit its cameras",
    ),
    "a name": (damaged("names", ["top", "side"]), "damaged .*layout .* does not fit its cameras"),
    "a column": (damaged("layout", [2, "top", "wrist"]), "damaged .*layout .* fit .* its state"),
    "a width": (damaged("width", 9), "damaged .*ranges of features have another width"),
    "a range": (damaged("unit", [0.0] * 16), "damaged .*ranges of features are no ranges"),
    "lacking": (lambda f: rewritten(f, lambda v: v["cameras"].pop("layout")), "lacks 'layout'"),
    "a path": (damaged("file", "../encoder.onnx"), "damaged .*list of files"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder(what: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[what]
    folder = shutil.copytree(seeing_robot("clip", **TOLERANCE)[2], tmp_path / "robot")
    damage(folder)
    with pytest.raises(PcmError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_another_policy(tmp_path: Path) -> None:
    """Its digest does not fit; where somebody changed that too, its features do not."""
    onnx = pytest.importorskip("onnx", reason="pip install 'pcm_policy[export]'")
    folder = shutil.copytree(seeing_robot("clip", **TOLERANCE)[2], tmp_path / "robot")
    path = folder / "encoder.onnx"
    model = onnx.load(str(path), load_external_data=False)
    (shift, *_) = (w for w in model.graph.initializer if w.dims == [3] and w.data_type == 1)
    shift.raw_data = (np.frombuffer(shift.raw_data, np.float32) + np.float32(0.1)).tobytes()
    onnx.save(model, str(path))
    with pytest.raises(PcmError, match="from another policy"):
        load(folder)
    rewritten(folder, lambda v: v["files"].update({path.name: digest(path)}))
    with pytest.raises(PcmError, match="gives other features"):
        load(folder)
