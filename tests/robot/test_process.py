"""A folder in a process of its own plans as in this one; if it dies, the robot goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import PlanRequest
from pcm_policy.control.background import PlanThread
from pcm_policy.errors import PcmError
from pcm_policy.robot.process import KEPT, PlanProcess, _answered
from tests.robot.parts import exported, observation

PCM = {"method": "pcm", "rounds": 2}


def request(policy: Any, tick: int, memory: Any = None) -> PlanRequest:
    prefix = np.zeros((0, policy.config.action_dim), np.float32)
    obs = observation(policy, tick)
    return PlanRequest(
        tick, 1, tick, 0.0, obs, prefix, executed=1, warm_start="trajectory", memory=memory
    )


def test_it_plans_the_same_and_starts_again_when_it_died() -> None:
    policy, robot, folder = exported("mlp_window", **PCM)
    with PlanProcess(folder) as process:
        assert (process.spec, process.control) == (robot.spec, robot.control)
        here = there = None
        for tick in range(3):
            want, found = robot.plan(request(policy, tick, here)), None
            found = process.plan(request(policy, tick, there))
            np.testing.assert_array_equal(found.actions, want.actions)
            here, there = want.memory, found.memory
        with pytest.raises(PcmError, match="observation has shape") as caught:
            process.plan(replace(request(policy, 3), obs=observation(policy, 3)[:, :-1]))
        assert "\n" not in str(caught.value)
        assert process.starts == 1
        assert process._worker is not None
        process._worker.kill()
        process._worker.wait()
        cold = process.plan(request(policy, 4, there))  # what it remembered is gone
        np.testing.assert_array_equal(cold.actions, robot.plan(request(policy, 4)).actions)
        assert process.starts == 2
        thread = PlanThread(process.plan)
        thread.submit(request(policy, 5))
        solved = thread.take(30.0)
        thread.close()
        assert solved is not None
        assert solved.error == ""


def test_a_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="is no robot's folder"):
        PlanProcess(tmp_path)


def test_the_latest_memories_are_kept() -> None:
    from pcm_policy.control import Plan

    memories: dict[int, Any] = {}
    seen = []

    def plan(given: PlanRequest) -> Plan:
        seen.append(given.memory)
        return Plan(given.id, np.zeros((1, 1), np.float32), memory=f"of {given.id}")

    none = np.zeros((0, 1), np.float32)
    for i in range(KEPT + 3):
        one = PlanRequest(i, 0, i, 0.0, none, none, memory=i - 1)
        assert getattr(_answered(plan, one, memories), "memory", None) == i
    assert seen == [None, *(f"of {i}" for i in range(KEPT + 2))]
    assert list(memories) == list(range(3, KEPT + 3))


def test_whatever_a_solve_raises_is_an_answer() -> None:
    def plan(given: PlanRequest) -> Any:
        raise RuntimeError("no such kernel")

    none = np.zeros((0, 1), np.float32)
    found = _answered(plan, PlanRequest(0, 0, 0, 0.0, none, none), {})
    assert str(found) == "RuntimeError: no such kernel"
