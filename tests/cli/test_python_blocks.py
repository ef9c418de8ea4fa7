"""Every block of Python in README and docs runs; those of docs/extend.md in ``test_extend.py``."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy import DiffusionPolicy
from pcm_policy.control import Controller
from pcm_policy.control.delay import DelayEstimator
from pcm_policy.envs.vision_operators import declare_vision_operators
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.serving.planner import Planner
from tests import seeing
from tests.builders import small_policy
from tests.cli.documented import DOCUMENTS, python_blocks

RUN = {"README.md": 2, "adopt.md": 2, "control.md": 3, "own_robot.md": 2, "robot.md": 4}
RUN |= {
    "library.md": 6,
    "training.md": 1,
    "vla.md": 1,
}  # the last needs LeRobot: tests/adopt/test_parallel_lerobot.py


def eyes(state: int, *cameras: str) -> VisionConfig:
    """Return what sees so many numbers and some cameras."""
    sizes = dict.fromkeys(cameras, (96, 96))
    return replace(seeing.VISION, layout=(state, *cameras), cameras=sizes)


def blocks(name: str) -> list[str]:
    (document,) = (d for d in DOCUMENTS if d.name == name)
    return python_blocks(document)


def run(name: str, *which: int, **scope: Any) -> dict[str, Any]:
    """Run blocks of a page one after another, with names that its text speaks of."""
    for i in which:
        exec(compile(blocks(name)[i], f"{name}, block {i}", "exec"), scope)
    return scope


def test_no_block_is_left_out() -> None:
    """A new block needs a test here; those of docs/extend.md are files, which its test writes."""
    found = {d.name: len(python_blocks(d)) for d in DOCUMENTS if d.name != "extend.md"}
    assert {name: count for name, count in found.items() if count} == RUN


def test_readme() -> None:
    found = run("README.md", 0, 1)
    assert found["action"].shape == (1, 10, 2)
    limited = found["policy"].predict(found["obs"]).action
    assert limited.min() >= 0
    assert limited.max() <= 512


def test_adopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seeing.make(eyes(5, "observation.images.top", "observation.images.wrist")).save_pretrained(
        "seeing/policy"
    )
    assert run("adopt.md", 0)["action"].shape[2] == 2
    small_policy(obs_fields=("object",)).save_pretrained("rm/policy")
    ob = {"object": np.zeros((2, 3))}
    assert run("adopt.md", 1, ob=ob)["action"].shape == (2,)


def test_library(capfd: pytest.CaptureFixture[str]) -> None:
    """The page's blocks run one after another; they say what the text says of them."""
    torch.manual_seed(0)
    declare_vision_operators()
    found = run("library.md", 0)
    assert found["found"].sample.shape == (4, 3, 16, 16)
    assert found["found"].rounds < 50
    scope = run("library.md", 1)
    assert bool(scope["found"].certified.all())
    assert bool(run("library.md", 2)["found"].certified.all())
    assert run("library.md", 3)["out"].shape == (2, 1, 8, 8)
    scope = run("library.md", 4, 5, **scope)
    assert scope["images"].shape == (1, 8, 8, 1)
    assert bool(scope["parallel"].last.certified.all())


def test_control() -> None:
    policy = small_policy(obs_fields=("robot0_eef_pos",))
    planner = Planner(policy)
    controller = Controller(planner.spec, delay=DelayEstimator(100.0))
    controller.reset(seed=0, rest=[0, 0])
    frame = np.zeros(3)
    controller.observe(frame)
    request = controller.request()
    assert request is not None
    given = {"controller": controller, "frame": frame, "plan": planner.plan(request)}
    found = run("control.md", 0, **given, latency_ms=5.0, id=7, why="it diverged")
    assert found["command"].how == "plan"
    sees = eyes(3, "agentview_image", "robot0_eye_in_hand_image")
    planner = Planner(seeing.make(sees, obs_fields=("robot0_eef_pos",)))
    controller = Controller(planner.spec)
    controller.reset(seed=0, rest=[0, 0])
    image = np.zeros((96, 96, 3), np.uint8)
    given = {"controller": controller, "planner": planner, "image": image, "other": image}
    assert run("control.md", 1, **given, pos=np.zeros(3))["request"] is not None


def test_openpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client is driven by ``tests/serving/drive_openpi.py``, in a Python of its own."""
    asked: list[Any] = []

    class Client:
        def __init__(self, *address: Any) -> None:
            assert address == ("localhost", 8000)

        def infer(self, obs: Any) -> dict[str, Any]:
            asked.append(obs)
            return {"actions": np.zeros((9, 2))}

    name = "openpi_client.websocket_client_policy"
    monkeypatch.setitem(sys.modules, name.partition(".")[0], SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(WebsocketClientPolicy=Client))
    assert run("control.md", 2, image=0, state=0)["actions"].shape == (9, 2)
    assert set(asked[0]) == {"observation/image", "state", "prompt"}


def test_own_robot() -> None:
    """The program drives, with a controller in the place of one that asks a server."""
    planner = Planner(small_policy(obs_dim=7, action_dim=7))
    sent: list[Any] = []

    def remote(uri: str, settings: Any, *, token: Any) -> Any:
        controller = Controller(planner.spec, settings)

        def step(frame: Any) -> Any:
            controller.observe(frame)
            request = controller.request()
            if request is not None:
                controller.accept(planner.plan(request))
            return controller.act()

        found = SimpleNamespace(reset=controller.reset, step=step, controller=controller)
        return nullcontext(found)

    class Robot:
        def reset(self) -> None: ...

        def observe(self) -> Any:
            return np.zeros(7)

        def send(self, command: Any) -> None:
            sent.append(command)

        def done(self) -> bool:
            return len(sent) == 3

    drive = run("own_robot.md", 0)["drive"]
    drive.__globals__["RemoteController"] = remote
    assert drive(Robot())["ticks"] == 3
    assert np.abs(np.array(sent)).max() <= 3.1


@pytest.mark.slow  # an export
def test_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    from pcm_policy.export import export_robot

    noisy = SamplerConfig("ddim", 32, eta=1.0)
    policy = small_policy(obs_dim=20, horizon=16, sampler=noisy)
    policy.obs_normalizer.high.fill_(512.0)
    monkeypatch.chdir(tmp_path)
    Path("DIR").mkdir()
    policy.save_pretrained("small")
    export_robot(policy, policy.solver({"method": "picard", "rounds": 2}), Path("DIR/robot"))
    given = DiffusionPolicy.from_pretrained

    def small(path: str) -> DiffusionPolicy:
        assert path == "released/pusht"
        return given("small")

    monkeypatch.setattr(DiffusionPolicy, "from_pretrained", small)
    found = run("robot.md", 0, 1, 2)  # the fourth: tests/robot/test_cameras.py
    assert found["command"].action.shape == (2,)


def test_training() -> None:
    mirror = run("training.md", 0)["left_and_right"]
    seen, done = mirror(np.arange(6).reshape(2, 3), np.arange(4).reshape(2, 2))
    assert (seen.shape, done.tolist()) == ((2, 3), [[1, 0], [3, 2]])
