"""Push-T seen by a camera: the latency study and the loop in real time take images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy import DiffusionPolicy
from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.loop import loop_main
from pcm_policy.control import ControlSettings
from pcm_policy.control.delay import FixedLatency, MeasuredLatency
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.rollout.simulate import SimulationResult, simulate
from pcm_policy.serving.planner import Planner
from tests.seeing import make

ENV = "pcm_policy/PushTImage-v0"
TOP = VisionConfig((2, "image"), {"image": (96, 96)}, crop=(84, 84), keypoints=4, features=3)
REALTIME = ControlSettings(mode="async", prefix=True, prefix_past=True, warm_start="auto")
pytestmark = pytest.mark.usefixtures("quick")


def policy() -> DiffusionPolicy:
    made = make(TOP, obs_fields=("agent_pos",), task="pusht_image", max_excess=1e6)
    made.action_normalizer.low.fill_(0.0)
    made.action_normalizer.high.fill_(512.0)
    made.action_normalizer.scale.fill_(1 / 256)
    made.action_normalizer.shift.fill_(-1.0)
    return made


def run(num_envs: int, latency: Any, settings: ControlSettings) -> SimulationResult:
    found = simulate(
        Planner(policy()),
        ENV,
        latency,
        settings,
        episodes=2,
        seed=7,
        num_envs=num_envs,
        solve_batch=2,
        max_steps=14,
        progress=False,
    )
    assert "bad_observation" not in found.control.counts
    assert "late_frame" not in found.control.counts
    assert found.control.counts["plans"] >= 4
    assert found.control.encode_ms is not None
    return found


@pytest.mark.parametrize("settings", [ControlSettings(), REALTIME], ids=["sync", "realtime"])
def test_the_number_of_environments_changes_nothing(settings: ControlSettings) -> None:
    one, two = (run(n, FixedLatency(100.0), settings) for n in (1, 2))
    for a, b in zip(one.commands, two.commands, strict=True):
        assert np.ptp(a) > 0
        np.testing.assert_array_equal(a, b)


def test_measured_latency_is_that_of_the_newest_frame_and_the_solve() -> None:
    found = run(1, MeasuredLatency(), ControlSettings())
    assert len(found.control.latencies_ms) >= 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_the_commands_take_a_policy_with_a_camera(folder: Path, tmp_path: Path) -> None:
    words = ["task=pusht_image", f"policy={folder}", "device=cpu"]
    more = ["latency=steps", "latency.steps=1", "control=realtime", "episodes=1", "max_steps=10"]
    report = eval_main(
        compose("eval", [*words, *more, "latency_calls=1", f"output_dir={tmp_path}/eval"])
    )
    assert report["encode_ms"]["p50"] > 0
    assert report["latency_ms"]["encode"] > 0
    more = ["duration_s=0.6", "control_hz=20", f"output_dir={tmp_path}/loop"]
    loop_main(compose("bench loop", [*words, *more]))
    report = json.loads((tmp_path / "loop/loop.json").read_text())
    assert report["counts"]["plans"] >= 1
    assert "bad_observation" not in report["counts"]
    assert report["stages_ms"]["encode"]["count"] >= 2
