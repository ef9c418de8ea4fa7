"""ALOHA's simulation for real: it is gym-aloha's, repeats bit by bit, and its expert succeeds."""

import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pcm_policy.envs  # noqa: F401 (registers it)
from pcm_policy.envs.aloha import TASKS, Aloha
from pcm_policy.envs.experts import make_expert
from pcm_policy.envs.experts.aloha import FINGERS, LEFT, RIGHT, Arm
from pcm_policy.errors import PcmError

pytest.importorskip("gym_aloha")
IDS = {
    "transfer_cube": "pcm_policy/AlohaTransferCube-v0",
    "insertion": "pcm_policy/AlohaInsertion-v0",
}
Env = gym.Env[Any, Any]
SEEING = """
from pcm_policy.envs.aloha import Aloha
env = Aloha("transfer_cube", cameras=["top", "left_wrist"], camera_size=[60, 80])
seen, _ = env.reset(seed=0)
assert env.observation_space.contains(seen)
assert seen["top"].shape == (60, 80, 3) and seen["top"].std() > 5
assert env.render() is None
env.draws = False
black, _ = env.reset(seed=0)
assert black["top"].max() == 0 and (black["agent_pos"] == seen["agent_pos"]).all()
env.draws = True
assert (env.reset(seed=0)[0]["top"] == seen["top"]).all()
"""


@pytest.fixture(scope="module", params=IDS)
def env(request: pytest.FixtureRequest) -> Iterator[Env]:
    with closing(gym.make(IDS[request.param])) as made:
        yield made


@pytest.fixture(scope="module")
def cube() -> Iterator[Env]:
    with closing(gym.make(IDS["transfer_cube"])) as made:
        yield made


def drawn_actions(env: Env, seed: int, steps: int) -> Any:
    """Return actions near the start, some of them beyond a joint's range, (steps, 14)."""
    start = env.reset(seed=seed)[0]["agent_pos"]
    moves = np.random.default_rng(seed).normal(0.0, 0.03, (steps, 14)).cumsum(axis=0)
    moves[steps // 2] *= 30.0
    return (start + moves).astype(np.float32)


def walk(env: Env, seed: int, steps: int = 40) -> tuple[list[Any], Any, Any]:
    """Return observations and states before each drawn action and after the last; actions."""
    actions = drawn_actions(env, seed, steps)
    observation, info = env.reset(seed=seed)
    seen, states = [observation], [info["state"]]
    for action in actions:
        observation, _, _, _, info = env.step(action)
        seen.append(observation)
        states.append(info["state"])
    return seen, np.array(states), actions


def test_repeats_bit_by_bit_and_from_recorded_states(env: Env) -> None:
    seen, states, actions = walk(env, 1)
    with closing(gym.make(env.spec.id)) as other:  # type: ignore[union-attr]
        walk(other, 77, 7)  # a past that must leave no trace
        np.testing.assert_array_equal(walk(other, 1)[1], states)
        observation, info = other.reset(options={"state": states[15]})
        np.testing.assert_array_equal(info["state"], states[15])
        for name, values in seen[15].items():
            np.testing.assert_array_equal(observation[name], values)
        for j in range(15, len(actions)):
            _, _, _, _, info = other.step(actions[j])
            np.testing.assert_array_equal(info["state"], states[j + 1])


@pytest.mark.parametrize("task", IDS)
def test_it_is_gym_alohas_own_simulation(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own environment, with black pictures, gives the same joints, objects and rewards."""
    name = IDS[task].removeprefix("pcm_policy/")
    made = gym.make(f"gym_aloha/{name}", obs_type="pixels_agent_pos", disable_env_checker=True)
    theirs: Any = made.unwrapped
    black = np.zeros((480, 640, 3), np.uint8)
    monkeypatch.setattr(type(theirs._env.physics), "render", lambda *_, **__: black)
    with closing(gym.make(IDS[task])) as ours:
        for seed in (0, 3, 100_000):
            actions = drawn_actions(ours, seed, 30)
            seen, _ = ours.reset(seed=seed)
            expected, _ = theirs.reset(seed=seed)
            for action in actions:
                theirs_now = expected["agent_pos"].astype(np.float32)
                np.testing.assert_array_equal(seen["agent_pos"], theirs_now)
                objects = theirs._env.task.get_env_state(theirs._env.physics)
                np.testing.assert_array_equal(seen["env_state"], objects.astype(np.float32))
                seen, _, success, _, info = ours.step(action)
                expected, reward, terminated, _, _ = theirs.step(action.astype(np.float64))
                assert (info["dense_reward"], success) == (reward, terminated)


def test_spaces_and_seeds(env: Env) -> None:
    starts = [env.reset(seed=seed)[0] for seed in (0, 1, 0, 2**40)]
    assert env.observation_space.contains(starts[0])
    assert env.action_space.contains(starts[0]["agent_pos"])
    assert not np.array_equal(starts[0]["env_state"], starts[1]["env_state"])
    np.testing.assert_array_equal(starts[0]["env_state"], starts[2]["env_state"])
    assert not np.array_equal(starts[0]["env_state"], starts[3]["env_state"])
    np.testing.assert_array_equal(starts[0]["agent_pos"], starts[1]["agent_pos"])


def test_what_is_wrong_is_refused(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PcmError, match=r"finite numbers of this task's info\['state'\]"):
        env.reset(options={"state": np.zeros(3)})
    with pytest.raises(PcmError, match="task is transfer_cube or insertion, not 'pour'"):
        Aloha("pour")
    monkeypatch.setitem(sys.modules, "gym_aloha.tasks.sim", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[aloha\]'"):
        Aloha(next(iter(TASKS)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cameras": ["topp"]}, "cameras are some of left_pillar, .*top.*, not"),
        ({"cameras": ["top", "top"]}, "each once"),
        ({"cameras": "top"}, "cameras are some of"),
        ({"cameras": ["top"], "camera_size": [2000, 3000]}, r"at most \[480, 640\]"),
        ({"cameras": ["top"], "camera_size": [96]}, "camera_size is"),
        ({"camera_size": "foo"}, "camera_size is"),
        ({"camera_size": [96.5, 10]}, "camera_size is"),
        ({"camera_size": 96}, "camera_size is"),
        ({"camera_size": [0, 10]}, "camera_size is"),
    ],
)
def test_cameras_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PcmError, match=message):
        Aloha("transfer_cube", **given)


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="nothing draws here")
def test_cameras_see_the_table_at_their_size() -> None:
    words = [sys.executable, "-c", SEEING]
    done = subprocess.run(words, env=os.environ | {"MUJOCO_GL": "egl"}, check=True, text=True)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "bad", [np.zeros(15), np.zeros(13), np.zeros((1, 14)), np.full(14, np.inf)]
)
def test_an_action_is_fourteen_finite_numbers(cube: Env, bad: Any) -> None:
    cube.reset(seed=0)
    with pytest.raises(PcmError, match="an action is 14 finite numbers"):
        cube.step(bad)


def test_a_simulation_that_fails_ends_its_episode(cube: Env) -> None:
    """Joints that are sent from one end of their range to the other at every step."""
    space: Any = cube.action_space
    states = [cube.reset(seed=0)[1]["state"]]
    over, step = False, 0
    while not over:
        action = (space.low, space.high)[step % 2]
        _, reward, over, truncated, info = cube.step(action)
        states.append(info["state"])
        step += 1
        assert not truncated
    assert (reward, info["is_success"]) == (0.0, False)
    np.testing.assert_array_equal(states[-1], states[-2])
    assert np.isfinite(cube.reset(seed=1)[0]["agent_pos"]).all()
    observation, _, over, _, _ = cube.step(cube.reset(seed=1)[0]["agent_pos"])
    assert not over
    assert cube.observation_space.contains(observation)


@pytest.mark.parametrize("seed", range(12))
def test_the_expert_transfers_the_cube(cube: Env, seed: int) -> None:
    expert = make_expert("aloha_transfer_cube")
    expert.reset(np.random.default_rng([seed, 1]))
    observation, _ = cube.reset(seed=seed)
    told, over = [], False
    while not over:
        action = expert.act(observation)
        assert cube.action_space.contains(action)
        observation, reward, success, truncated, info = cube.step(action)
        assert (reward, info["is_success"]) == (float(success), success)
        told.append(info["dense_reward"])
        over = success or truncated
    assert success
    assert len(told) < 200
    assert told[-1] == 4
    assert 2 in told  # the right arm lifted it before


@pytest.mark.parametrize("arm", [LEFT, RIGHT])
def test_inverse_kinematics_is_mujocos(cube: Env, arm: Arm) -> None:
    """Joints for drawn poses put the simulator's own hand there, as ``tips`` says."""
    physics = cube.unwrapped._physics  # type: ignore[attr-defined]
    side, first = ("left", 0) if arm is LEFT else ("right", 8)
    hand = physics.model.name2id(f"vx300s_{side}/gripper_link", "body")
    random = np.random.default_rng(0)
    for _ in range(20):
        point = np.array([*random.uniform([-0.1, 0.4], [0.1, 0.6]), random.uniform(0.02, 0.3)])
        pitch, roll = random.uniform(0.0, 1.2), random.uniform(-1.5, 1.5)
        joints = arm.joints(point, pitch, roll)
        with physics.reset_context():
            physics.data.qpos[first : first + 6] = joints
        turn = physics.data.xmat[hand].reshape(3, 3)
        np.testing.assert_allclose(physics.data.xpos[hand] + FINGERS * turn[:, 0], point, atol=1e-4)
        np.testing.assert_allclose(turn[2, 0], -np.sin(pitch), atol=1e-4)
        tips, found = arm.tips(joints)
        np.testing.assert_allclose([*tips, found], [*point, pitch], atol=1e-9)


def test_a_point_out_of_reach_gives_the_nearest_within() -> None:
    joints = LEFT.joints(np.array([1.0, 0.5, 0.3]), 0.0, 0.0)
    assert np.isfinite(joints).all()
    tips, _ = LEFT.tips(joints)
    assert 0.2 < tips[0] < 1.0
