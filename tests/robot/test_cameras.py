"""A folder with cameras: the features and chunks of its policy, every frame encoded once."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.control import Controller, ControlSettings, Frame
from pcm_policy.draws import draw as drawn
from pcm_policy.errors import PcmError
from pcm_policy.robot import load
from pcm_policy.robot.process import PlanProcess
from pcm_policy.robot.sending import Receiver, Sender
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.serving.planner import Planner
from tests.cli.test_python_blocks import run
from tests.robot.parts import seeing_robot
from tests.seeing import EYES, draw, drive, glance

ENGINES = ("onnxruntime", "openvino")
ROUNDS = {"method": "picard", "rounds": 2}
TOLERANCE = {"method": "picard", "tolerance": 1e-3}
SEQUENTIAL = {"method": "sequential"}
CASES = [
    pytest.param("shared", ROUNDS, id="shared"),
    pytest.param("clip", TOLERANCE, id="clip"),
    pytest.param("means", SEQUENTIAL, id="means", marks=pytest.mark.slow),
]
REALTIME = ControlSettings(
    mode="async", prefix=True, prefix_past=True, warm_start="trajectory", delay_steps=1
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("eyes", "settings"), CASES)
def test_predict_is_the_policys(eyes: str, settings: dict[str, Any], engine: str) -> None:
    """Plain, with known actions and from a guess; features too, relative to the largest."""
    policy, robot, _ = seeing_robot(eyes, engine, **settings)
    solver, shape = policy.solver(settings), policy.config.chunk_shape
    steps = policy.sampler(solver.sampler).noise_steps
    ahead = np.full((2, 2), 0.1, np.float32)
    guess = torch.full((1, *shape), 0.2)
    for tick, (prefix, start) in enumerate([(None, None), (ahead, None), (None, guess)]):
        obs = draw(None, tick)
        if not EYES[eyes].state_dim:
            del obs["state"]
        found = robot.predict(
            obs,
            noise=drawn([5], [tick], shape, steps),
            prefix=prefix,
            guess=None if start is None else start.numpy(),
        )
        want = policy.predict(
            obs,
            solver=solver,
            noise=episode_noise([5], [tick], shape, steps),
            prefix=None if prefix is None else policy.known_prefix(prefix[None]),
            guess=start,
        )
        np.testing.assert_allclose(found.chunk, want.chunk, rtol=0, atol=1e-5)
        assert found.solve.rounds == want.solve.rounds
        vector = policy.observe(obs).numpy()
        frames = [{k: obs[k][i] for k in EYES[eyes].cameras} for i in range(2)]
        state = obs.get("state", np.zeros((2, 0), np.float32))
        own = robot.sight.join(state, [robot.sight.encode(one) for one in frames])
        largest = max(1.0, float(np.abs(vector).max()))
        np.testing.assert_allclose(own, vector, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_controllers_plans_are_the_planners(engine: str) -> None:
    """Known prefix with past actions, and warm start, as long as it drives."""
    policy, robot, _ = seeing_robot("shared", engine, **ROUNDS)
    planner = Planner(policy, policy.solver(ROUNDS))
    assert robot.spec == planner.spec
    want, found = (
        drive(Controller(robot.spec, REALTIME, 3), p, map(glance, range(14)))
        for p in (planner, robot)
    )
    assert len(found) == len(want) >= 3
    assert any(len(request.prefix) > 1 and request.past for request, _ in found)
    for (_, one), (_, other) in zip(found, want, strict=True):
        np.testing.assert_allclose(one.actions, other.actions, rtol=0, atol=1e-5)
        assert (one.fault, one.rounds, one.late_frames) == (None, other.rounds, other.late_frames)


@pytest.mark.parametrize("settings", [ControlSettings(replan_steps=1), REALTIME])
@pytest.mark.parametrize("early", [True, False])
def test_a_frame_is_encoded_once(
    settings: ControlSettings, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, robot, _ = seeing_robot("shared", **ROUNDS)
    encoded: list[int] = []
    inner = robot.sight.encode

    def counted(images: Any) -> Any:
        encoded.append(int(images["top"].sum()))
        return inner(images)

    monkeypatch.setattr(robot.sight, "encode", counted)
    controller = Controller(robot.spec, settings)
    plans = drive(controller, robot, map(glance, range(12)), early)
    used = {frame for request, _ in plans for frame in request.frames}
    assert len(encoded) == len(set(encoded)) == (12 if early else len(used))
    assert all(plan.encode_ms > 0 for _, plan in plans)
    late = sum(plan.late_frames for _, plan in plans)
    assert (
        late == controller.record.counts["late_frame"] == (0 if early else len(used) - len(plans))
    )
    del plans, used
    controller.reset(1)
    gc.collect()
    assert len(robot.sight.features) == 0


def test_a_process_encodes_a_frame_once() -> None:
    _, robot, folder = seeing_robot("shared", **ROUNDS)
    with PlanProcess(folder) as process:
        controllers = [Controller(robot.spec, REALTIME, 3) for _ in range(2)]
        want, found = (
            drive(c, p, map(glance, range(9)))
            for c, p in zip(controllers, (robot, process), strict=True)
        )
        for (_, one), (_, other) in zip(found, want, strict=True):
            np.testing.assert_array_equal(one.actions, other.actions)
            assert (one.encode_ms > 0, one.late_frames) == (True, 0)
        newest = controllers[1].newest
        assert newest is not None
        assert process.see(newest) == 0.0
        with pytest.raises(PcmError, match=r"wrist has shape \(9, 36, 3\)") as caught:
            process.see(Frame(newest.state, newest.images | {"wrist": newest.images["wrist"][:9]}))
        assert "\n" not in str(caught.value)
        assert process._worker is not None
        process._worker.kill()
        process._worker.wait()
        assert process.see(newest) > 0.0  # sent again, to the next one
        assert process.starts == 2


def test_a_frame_is_sent_once_and_forgotten_with_its_owner() -> None:
    sender, receiver = Sender(), Receiver()
    frames = [Frame(np.zeros(1, np.float32)) for _ in range(3)]
    first = sender.ask(frames[:2])
    assert list(first.new.values()) == frames[:2]
    assert receiver.frames(first) == tuple(frames[:2])
    del first
    second = sender.ask(frames[1:])
    assert list(second.new.values()) == frames[2:]
    assert receiver.frames(second) == tuple(frames[1:])
    assert len(receiver) == 3
    other, receiver = receiver, Receiver()  # as the other process: it keeps nothing alive here
    del frames[0], second, other
    gc.collect()
    assert sender.ask(frames).gone == (0,)
    assert sender.ask(frames).gone == ()


ALONE_IN_PYTHON = """
import sys
import numpy as np
from pcm_policy.robot import load
robot = load(sys.argv[1])
found = robot.predict(dict(np.load(sys.argv[2])))
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "hydra", "omegaconf", "gymnasium", "safetensors"}, loaded
print(found.chunk.tolist())
"""


def test_without_torch(tmp_path: Path) -> None:
    _, robot, folder = seeing_robot("clip", **TOLERANCE)
    obs = draw(None, 1)
    np.savez(tmp_path / "obs.npz", **obs)
    words = [sys.executable, "-c", ALONE_IN_PYTHON, str(folder), str(tmp_path / "obs.npz")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    robot.reset()
    np.testing.assert_array_equal(json.loads(done.stdout), robot.predict(obs).chunk)


def test_the_page_drives_a_robot_with_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "DIR4").mkdir()
    (tmp_path / "DIR4/robot").symlink_to(seeing_robot("clip", **TOLERANCE)[2])
    monkeypatch.chdir(tmp_path)
    seen = (glance(i) for i in range(5))
    found = run("robot.md", 3, load=load, np=np, camera=lambda: next(seen))
    assert found["action"].shape == (1, 4, 2)
    assert found["controller"].record.counts["plans"] == 1
