"""Adroit's door for real: repeats bit by bit, goes back to recorded states, opens and says so."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

import pcm_policy.envs  # noqa: F401 (registers it)
from benchmarks import adroit
from benchmarks.pasted import result
from pcm_policy.datasets.formats.robomimic import open_robomimic
from pcm_policy.envs.adroit import AdroitDoor
from pcm_policy.errors import PcmError

ENV = "pcm_policy/AdroitDoor-v0"
FURTHEST = 24
"""The demonstration that opens the door furthest."""
Env = gym.Env[Any, Any]


@pytest.fixture(scope="module")
def env() -> Iterator[Env]:
    pytest.importorskip("gymnasium_robotics")
    with closing(gym.make(ENV)) as made:
        yield made


def walk(env: Env, seed: int, steps: int = 60) -> tuple[Any, Any, Any]:
    """Return observations and states before each drawn action and after the last; actions."""
    observation, info = env.reset(seed=seed)
    actions = np.random.default_rng(seed).uniform(-1.4, 1.4, (steps, 28)).astype(np.float32)
    seen, states = [observation["observation"]], [info["state"]]
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        assert (reward, terminated, info["is_success"]) == (0.0, False, False)
        seen.append(observation["observation"])
        states.append(info["state"])
    return np.array(seen), np.array(states), actions


def test_repeats_bit_by_bit_and_from_recorded_states(env: Env) -> None:
    seen, states, actions = walk(env, 1)
    with closing(gym.make(ENV)) as other:
        walk(other, 77, 10)  # a past that must leave no trace
        np.testing.assert_array_equal(walk(other, 1)[1], states)
        observation, info = other.reset(options={"state": states[30]})
        np.testing.assert_array_equal(info["state"], states[30])
        np.testing.assert_array_equal(observation["observation"], seen[30])
        for j in range(30, len(actions)):
            _, _, _, _, info = other.step(actions[j])
            np.testing.assert_array_equal(info["state"], states[j + 1])


def test_seeds_name_different_doors_and_actions_are_clipped(env: Env) -> None:
    handles = [env.reset(seed=seed)[0]["observation"][32:35] for seed in (0, 1, 0)]
    assert not np.array_equal(handles[0], handles[1])
    np.testing.assert_array_equal(handles[0], handles[2])
    ends = []
    for action in (1.37, 1.0):
        env.reset(seed=0)
        ends.append(env.step(np.full(28, action, np.float32))[4]["state"])
    np.testing.assert_array_equal(*ends)
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_wrong_states_are_refused(env: Env) -> None:
    with pytest.raises(PcmError, match=r"finite numbers of this task's info\['state'\]"):
        env.reset(options={"state": np.zeros(3)})


def test_a_missing_simulator_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[adroit\]'"):
        AdroitDoor()


def test_a_demonstration_opens_the_door(env: Env, door_data: Path) -> None:
    """From its ``initial_state``, as the recording: 1 and the end at 1.35 rad."""
    with h5py.File(door_data) as file:
        demo = file[f"data/demo_{FURTHEST}"]
        recorded, actions = demo["obs/observation"][:], demo["actions"][:]
        start = {name: values[:] for name, values in demo["initial_state"].items()}
    env.reset(options={"initial_state_dict": start})
    steps = 0
    for action in actions:
        steps += 1
        observation, reward, terminated, _, info = env.step(action)
        hinge = observation["observation"][adroit.HINGE]
        assert (reward, terminated, info["is_success"]) == (hinge >= 1.35,) * 3
        if terminated:
            break
    assert terminated
    recording = int(np.argmax(recorded[:, adroit.HINGE] >= adroit.SUCCESS))
    assert abs(steps - recording) <= 2


def test_the_first_observation_is_the_state_that_was_played_from(env: Env, door_data: Path) -> None:
    """From there joints come out as recorded; from ``initial_state`` they do after 50 steps."""
    with h5py.File(door_data) as file:
        demo = file["data/demo_0"]
        recorded, actions = demo["obs/observation"][:], demo["actions"][:50]
        start = {name: values[:] for name, values in demo["initial_state"].items()}
    inner = env.unwrapped._env  # type: ignore[attr-defined]
    shown = adroit.compared(
        adroit.play(inner, adroit.first_state(inner, recorded[0], start), actions), recorded[:51]
    )
    told = adroit.compared(adroit.play(inner, start, actions), recorded[:51])
    assert shown["joints"]["1"] < 2e-3 < 0.2 < told["joints"]["1"]
    assert max(told["joints"]["50"], shown["joints"]["50"]) < 5e-3


def test_the_file_is_read_as_it_is(door_data: Path) -> None:
    buffer = open_robomimic(door_data, ["observation", "action"])
    assert {name: values.shape for name, values in buffer.arrays.items()} == {
        "observation": (6729, 39),
        "action": (6729, 28),
    }
    assert len(buffer.episode_ends) == 25


def test_what_the_page_says_of_the_demonstrations() -> None:
    rows = result("adroit/replay.json")["demonstrations"]
    counts = [sum(row["recorded"] >= adroit.SUCCESS for row in rows)]
    counts += [sum(row[k]["hinge"] >= adroit.SUCCESS for row in rows) for k in ("told", "shown")]
    assert counts == [7, 8, 8]
    assert min(row["recorded"] for row in rows) > adroit.OPENED
    for k, most in (("1", 2.4e-3), ("5", 6.6e-3), ("20", 1.6e-3), ("50", 1.7e-2)):
        assert max(row["shown"]["joints"][k] for row in rows) < most
    for k, most in (("1", 0.47), ("20", 0.07)):
        assert max(row["told"]["joints"][k] for row in rows) < most
    for k, most in (("told", 0.06), ("shown", 0.091)):
        assert max(abs(row[k]["hinge"] - row["recorded"]) for row in rows) < most
