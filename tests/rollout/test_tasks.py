"""Every mode of the controller, the loop, the server and its client on every kind of task."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pcm_policy.cli.compose import compose, env_kwargs
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.loop import loop_main
from pcm_policy.control.client import RemoteController
from pcm_policy.control.config import rest_command, robot_settings
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer
from tests.rollout.tiny import tiny_policy

TASKS = {
    "pusht": None,
    "lift": "robosuite",
    "metaworld/pick-place": "metaworld",
    "adroit_door": "gymnasium_robotics",
    "kitchen": "gymnasium_robotics",
    "aloha_transfer_cube": "gym_aloha",
}
VELOCITIES = {"metaworld/pick-place": (0.0, 0.0, 0.0, None), "kitchen": (0.0,) * 9}
"""What holds a robot whose actions are moves; others hold the positions that they have."""
MOVES = {"metaworld/pick-place": (0.0, 0.0, 0.0, None), "kitchen": (0.0,) * 9}
"""What holds a robot whose actions are moves; others hold the positions that they have."""
MODES = ("default", "async", "prefix", "realtime")
Made = tuple[str, DiffusionPolicy, dict[str, Any], Path]


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    if TASKS[request.param] is not None:
        pytest.importorskip(TASKS[request.param])
    policy, task = tiny_policy(request.param)
    folder = tmp_path_factory.mktemp("policy") / "policy"
    policy.save_pretrained(folder)
    return request.param, policy, task, folder


def words(made: Made, output: Path, *more: str) -> list[str]:
    quick = ["device=cpu", "threads=1", f"policy={made[3]}", f"output_dir={output}"]
    return [f"task={made[0]}", *quick, *more]


def test_every_mode_runs_under_latency(made: Made, tmp_path: Path) -> None:
    quick = ("episodes=2", "num_envs=1", "solve_batch=2", "max_steps=14", "latency_calls=1")
    for mode in MODES if made[0] != "lift" else MODES[::3]:  # robosuite takes seconds to start
        late = (f"control={mode}", "latency=steps", "latency.steps=2", "solver=picard")
        config = compose("eval", words(made, tmp_path / mode, *quick, *late))
        report = eval_main(config)
        assert [e["steps"] for e in report["episodes"]] == [14, 14]
        assert report["counts"]["plans"] >= 4
        assert "bad_observation" not in report["counts"]


def test_the_loop_runs(made: Made, tmp_path: Path) -> None:
    report = loop_main(
        compose("bench loop", words(made, tmp_path, "duration_s=0.5", "control_hz=20"))
    )
    assert report["counts"]["plans"] >= 1
    assert "bad_observation" not in report["counts"]


@pytest.fixture
def server(made: Made) -> Iterator[str]:
    running = PolicyServer(Planner(made[1]), made[0], ServeOptions(port=0, batching=False))
    loop = asyncio.new_event_loop()
    ready = loop.create_future()
    task = loop.create_task(running.run(ready))
    port = loop.run_until_complete(ready)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"ws://127.0.0.1:{port}"
    task.add_done_callback(lambda _: loop.stop())
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)
    assert not thread.is_alive()


def test_a_remote_controller_takes_what_the_environment_gives(made: Made, server: str) -> None:
    task = made[2]
    env: gym.Env[Any, Any] = gym.make(task["env_id"], **env_kwargs(task))
    frame, _ = env.reset(seed=0)
    settings = robot_settings({"mode": "sync", "control_hz": 5.0}, task)
    with RemoteController(server, settings) as robot:
        rest = rest_command(task, robot.controller.spec.obs_fields)
        robot.reset(0, None if rest is None else rest(frame))
        for _ in range(3):
            command = robot.step(frame)
            if command.action is not None:
                frame, *_ = env.step(command.action)
        assert command.how == "plan"
        assert "bad_observation" not in robot.controller.record.counts
    env.close()


def test_a_waiting_robot_stands_still(made: Made) -> None:
    """Absolute commands are repeated; moves are not."""
    rest = rest_command(made[2], made[1].config.obs_fields)
    hold = robot_settings({}, made[2]).hold
    if made[0] in MOVES:
        assert rest is not None
        np.testing.assert_array_equal(rest({}), np.zeros(len(MOVES[made[0]])))
        assert hold == MOVES[made[0]]
    else:
        assert hold is None
