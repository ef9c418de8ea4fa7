"""The simulator that keeps moving: equal to the plain evaluator without latency; repeatable."""

import multiprocessing
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import ControlSettings
from pcm_policy.control.delay import FixedLatency, LognormalLatency, MeasuredLatency
from pcm_policy.envs.vector import Env
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.evaluate import evaluate
from pcm_policy.rollout.seams import seam_metrics, seam_sums
from pcm_policy.rollout.simulate import SimulationResult, simulate
from pcm_policy.serving.planner import Planner
from tests.control.parts import ENV

QUICK: dict[str, Any] = {"seed": 3, "max_steps": 40, "progress": False}
FULL = ControlSettings(
    mode="async", prefix=True, prefix_past=True, warm_start="trajectory", couple_noise=True
)


def rest(frame: np.ndarray) -> np.ndarray:
    return frame[18:20]


def run(
    planner: Planner, num_envs: int, settings: ControlSettings = FULL, **changes: Any
) -> SimulationResult:
    options = {"episodes": 5, "num_envs": num_envs, "solve_batch": 3, "rest": rest} | QUICK
    latency = LognormalLatency(150.0, 400.0)
    return simulate(planner, ENV, latency, settings, **options | changes)


def test_without_latency_it_is_the_plain_evaluator(
    policy: DiffusionPolicy, planner: Planner
) -> None:
    plain = evaluate(
        EpisodePolicy(policy, planner.solver), ENV, episodes=5, num_envs=5, solve_batch=3, **QUICK
    )
    for mode in ("sync", "async"):
        found = simulate(
            planner,
            ENV,
            FixedLatency(0.0),
            ControlSettings(mode=mode),
            episodes=5,
            num_envs=2,
            solve_batch=3,
            **QUICK,
        )
        assert found.result.episodes == plain.episodes
        assert found.control.counts.get("misses", 0) == 0


@pytest.mark.parametrize("num_envs", [1, 2, 4])
def test_number_of_environments_changes_nothing(planner: Planner, num_envs: int) -> None:
    reference = run(planner, 5)
    found = run(planner, num_envs)
    assert found.result == reference.result
    assert found.control == reference.control
    for a, b in zip(found.commands, reference.commands, strict=True):
        np.testing.assert_array_equal(a, b)


def test_processes_change_nothing(planner: Planner) -> None:
    assert run(planner, 2, mode="async").result == run(planner, 5).result
    assert not multiprocessing.active_children()


def test_latency_costs_ticks(planner: Planner) -> None:
    for mode in ("sync", "async"):
        found = simulate(
            planner,
            ENV,
            FixedLatency(300.0),
            ControlSettings(mode=mode),
            episodes=2,
            num_envs=2,
            solve_batch=2,
            rest=rest,
            **QUICK,
        )
        counts = found.control.counts
        assert counts["ticks"] == 80
        if mode == "sync":  # 3 + 8 ticks a plan: requests at 0, 11, 22, 33
            assert counts["requests"] == 8
            assert counts["misses"] == counts["hold"] == 24
        else:  # the first three ticks are held, then a request every eight steps
            assert counts["requests"] == 10
            assert counts["hold"] == 6
            assert counts.get("misses", 0) == 0
        for commands in found.commands:
            np.testing.assert_array_equal(commands[0], commands[2])


def test_measured_latency(planner: Planner) -> None:
    found = simulate(
        planner,
        ENV,
        MeasuredLatency(),
        ControlSettings(mode="async", control_hz=100.0),
        episodes=1,
        num_envs=1,
        rest=rest,
        **QUICK,
    )
    assert len(found.control.latencies_ms) >= 4
    assert min(found.control.latencies_ms) > 0.2


def test_broken_sensor(planner: Planner) -> None:
    """A NaN now and then is held over, counted, and never in a command."""
    import gymnasium as gym

    class Broken(gym.ObservationWrapper):  # type: ignore[type-arg]
        count = 0

        def observation(self, observation: np.ndarray) -> np.ndarray:
            self.count += 1
            return observation * np.nan if self.count % 5 == 0 else observation

    def wrap(env: Env) -> Env:
        return Broken(env)

    settings = ControlSettings(mode="async", on_observation="hold")
    found = run(planner, 2, settings, wrap=wrap)
    assert found.control.counts["bad_observation"] >= 5 * 7
    assert all(np.isfinite(c).all() for c in found.commands)
    assert found.control.counts["hold"] >= found.control.counts["bad_observation"]


def test_arguments(planner: Planner) -> None:
    with pytest.raises(PcmError, match="episodes"):
        run(planner, 2, episodes=0)


def test_seam_metrics() -> None:
    commands = np.zeros((20, 1), np.float32)
    commands[:, 0] = np.arange(20)
    seam = np.zeros(20, np.bool_)
    seam[[0, 8, 16]] = True
    smooth = seam_metrics([seam_sums(commands, seam, [0.0, 0.2], 10.0)])
    assert (smooth.seams, smooth.jump, smooth.jerk) == (2, 0.0, 0.0)
    assert smooth.velocity == smooth.velocity_elsewhere == 10.0
    assert smooth.gap == pytest.approx(0.1)
    assert smooth.mode_switches == 0.5
    commands[8:] += 3
    rough = seam_metrics([seam_sums(commands, seam, [], 10.0)])
    assert rough.jump == pytest.approx(1.5)
    assert rough.velocity == pytest.approx((40 + 10) / 2)
    assert rough.jerk == pytest.approx(6 / 2 * 1000)
    assert rough.jerk_elsewhere == 0.0
    assert seam_metrics([]).seams == 0


@pytest.mark.parametrize(
    ("settings", "latency", "why"),
    [
        (ControlSettings(mode="async", stale_steps=1), FixedLatency(200.0), "plan is 2 ticks old"),
        (ControlSettings(mode="async"), FixedLatency(2000.0), "plan is 20 ticks old"),
    ],
)
def test_a_robot_that_never_gets_a_command_ends_its_episode(
    planner: Planner, settings: ControlSettings, latency: FixedLatency, why: str
) -> None:
    found = simulate(planner, ENV, latency, settings, episodes=2, num_envs=2, **QUICK)
    for episode in found.result.episodes:
        assert "the robot stood still" in (episode.fault or "")
        assert why in (episode.fault or "")
        assert episode.steps == 0
