"""What is wrong with a folder, an input or a solver is one line; no torch is imported."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.control import ControlSettings, PlanRequest
from pcm_policy.draws import Draws
from pcm_policy.errors import PcmError
from pcm_policy.export import example, export, export_robot
from pcm_policy.robot import RobotPolicy, load
from tests.robot.parts import exported, observation, policy_of

PCM = {"method": "pcm", "rounds": 2}
ALONE = """
import sys
import numpy as np
from pcm_policy.robot import load
robot = load(sys.argv[1], engine=sys.argv[2])
found = robot.predict(np.load(sys.argv[3]))
plan = robot.controller().settings
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "hydra", "omegaconf", "gymnasium", "safetensors"}, loaded
print(found.chunk.tolist())
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("settings", [PCM, {"method": "sequential"}], ids=["pcm", "sequential"])
def test_without_torch(engine: str, settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    policy, robot, folder = exported("mlp_window", **settings)
    np.save(tmp_path / "obs.npy", observation(policy, 0))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), engine, str(tmp_path / "obs.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    robot.reset()
    want = robot.predict(observation(policy, 0)).chunk
    scale = policy.action_normalizer.scale.numpy()
    assert np.abs((np.array(json.loads(done.stdout)) - want) * scale).max() < 1e-5


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "robot.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def cut(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no json": (lambda f: (f / "robot.json").unlink(), "pcm-export formats=.robot. writes one"),
    "half a json": (lambda f: cut(f, "robot.json"), "is not JSON"),
    "half a graph": (lambda f: cut(f, "solve.onnx"), "solve.onnx is not the file"),
    "half an array": (lambda f: cut(f, "mixing.npy"), "mixing.npy is not the file"),
    "half the weights": (lambda f: cut(f, "weights.bin"), "weights.bin is not the file"),
    "no graph": (lambda f: (f / "solve.onnx").unlink(), "solve.onnx is missing"),
    "a version": (lambda f: rewritten(f, lambda v: v.update(robot=99)), "version 99"),
    "not ours": (lambda f: (f / "robot.json").write_text("[]"), "is not written by pcm-export"),
    "lacking": (lambda f: rewritten(f, lambda v: v.pop("spec")), "damaged .*spec"),
    "a path": (
        lambda f: rewritten(f, lambda v: v["files"].update({"../x.onnx": "0"})),
        "damaged .*files",
    ),
    "a word": (lambda f: rewritten(f, lambda v: v.update(steps="many")), "damaged .*steps"),
    "a limit": (lambda f: rewritten(f, lambda v: v["control"].update(low=[0.0])), "control.low"),
    "a range": (lambda f: rewritten(f, lambda v: v["spec"].update(horizon=1)), "horizon"),
    "no rounds": (
        lambda f: rewritten(f, lambda v: v["programs"]["plain"].update(graphs=[])),
        "damaged .*no graphs",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder(what: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[what]
    folder = shutil.copytree(exported("mlp_window", **PCM)[2], tmp_path / "robot")
    damage(folder)
    with pytest.raises(PcmError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_policy(tmp_path: Path) -> None:
    """Its digest does not fit; where somebody changed that too, its chunk does not."""
    import hashlib

    folder = shutil.copytree(exported("mlp_window", **PCM)[2], tmp_path / "robot")
    other = policy_of("mlp_window")
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.mul_(1.5)
    export_robot(other, other.solver(PCM), tmp_path / "other")
    names = ("solve.onnx", "weights.bin")
    for name in names:
        shutil.copy(tmp_path / "other" / name, folder)
    with pytest.raises(PcmError, match="from another policy"):
        load(folder)
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    rewritten(folder, lambda v: v["files"].update(digests))
    with pytest.raises(PcmError, match="gives another chunk"):
        load(folder)


def test_weights_are_stored_once() -> None:
    """A round under a tolerance is several graphs, all of which read the network."""
    onnx = pytest.importorskip("onnx", reason="pip install 'pcm_policy[export]'")
    _, robot, folder = exported("mlp_window", method="picard", tolerance=1e-3)
    first, later = (
        {
            weight.name: {one.key: one.value for one in weight.external_data}
            for weight in onnx.load(
                str(folder / graph.file), load_external_data=False
            ).graph.initializer
            if weight.external_data
        }
        for graph in robot.package.programs["plain"].graphs
    )
    network = {name for name in first if name in later}
    assert len(network) > 3
    assert all(first[name] == later[name] for name in network)
    assert len({(one["offset"], one["location"]) for one in first.values()}) == len(first)


def test_a_folder_above(tmp_path: Path) -> None:
    shutil.copytree(exported("mlp_window", **PCM)[2], tmp_path / "robot")
    with pytest.raises(PcmError, match=f"name {tmp_path}/robot"):
        load(tmp_path)


def _bad_inputs(robot: RobotPolicy) -> dict[str, dict[str, Any]]:
    spec, (horizon, width) = robot.spec, robot.package.chunk
    good = np.zeros((spec.obs_steps, spec.obs_dim))
    nan = np.full_like(good, np.nan)
    initial = np.zeros((1, horizon, width), np.float32)
    return {
        "observation has shape": {"obs": good[:1]},
        "one observation at a time": {"obs": np.stack([good, good])},
        "step 0: observation is not finite": {"obs": nan},
        "step 0: observation is out of range": {"obs": good + 1e9},
        "not an array": {"obs": [["a"]]},
        "policy does not say which entries|lacks": {"obs": {"nothing": good}},
        "noise is ndarray": {"obs": good, "noise": initial},
        "noise.initial has shape": {"obs": good, "noise": Draws(initial[:, :1])},
        "noise.initial is not finite": {"obs": good, "noise": Draws(initial * np.inf)},
        "guess has shape": {"obs": good, "guess": initial[0]},
        "prefix has shape": {"obs": good, "prefix": np.zeros((horizon + 1, spec.action_dim))},
        "prefix is not finite": {"obs": good, "prefix": np.full((1, spec.action_dim), np.nan)},
        "previous has shape": {"obs": good, "previous": np.zeros(spec.action_dim + 1)},
    }


@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_inputs() -> None:
    policy, robot, _ = exported("mlp_window", **PCM)
    for message, given in _bad_inputs(robot).items():
        if message.startswith(("noise", "guess", "prefix", "previous")):
            given["obs"] = observation(policy, 0)
        with pytest.raises(PcmError, match=message) as caught:
            robot.predict(**given)
        assert "\n" not in str(caught.value)


def test_a_request_that_the_folder_was_not_made_for() -> None:
    policy, robot, _ = exported("mlp_window", **PCM)
    prefix = np.zeros((1, robot.spec.action_dim), np.float32)
    request = PlanRequest(0, 0, 0, 0.0, observation(policy, 0), prefix, prefix_input=True)
    with pytest.raises(PcmError, match="export it again"):
        robot.plan(request)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "picard", "window": 3, "tolerance": 1e-3}, "which no graph can hold"),
        ({"method": "paradigms", "tolerance": 1e-3}, "which no graph can hold"),
    ],
)
def test_solvers_that_no_folder_holds(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcm_policy.export.robot._write_onnx", lambda *_: None)
    policy = policy_of("mlp_window")
    with pytest.raises(PcmError, match=message):
        export_robot(policy, policy.solver(settings), tmp_path / "robot")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    policy = policy_of("mlp_window")
    solver = policy.solver(PCM)
    with pytest.raises(PcmError, match=r"control\.low has 7 numbers"):
        export_robot(policy, solver, tmp_path / "robot", ControlSettings(low=(0.0,) * 7))
    with pytest.raises(PcmError, match="a robot's batch is 1"):
        export(policy, solver, tmp_path, ["robot"], example(policy, solver, 2, 0))
    with pytest.raises(PcmError, match="CPU in float32"):
        export_robot(policy.double(), solver, tmp_path / "robot")
    assert list(tmp_path.iterdir()) == []


def test_unknown_engines() -> None:
    folder = exported("mlp_window", **PCM)[2]
    with pytest.raises(PcmError, match="engine='tflite'"):
        load(folder, engine="tflite")  # type: ignore[arg-type]
    with pytest.raises(PcmError, match="threads=0"):
        load(folder, threads=0)
