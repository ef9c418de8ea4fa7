"""Meta-World for real: repeats bit by bit, goes back to recorded states; its experts succeed."""

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pcm_policy.envs  # registers them
from pcm_policy.envs.experts import make_expert
from pcm_policy.envs.metaworld import SIZES, MetaWorld
from pcm_policy.envs.metaworld_tasks import METAWORLD_TASKS
from pcm_policy.errors import PcmError
from pcm_policy.rollout.evaluate import evaluate

metaworld = pytest.importorskip("metaworld")
ENV = "pcm_policy/MetaWorld-{}-v3"


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env[Any, Any]]:
    with closing(gym.make(ENV.format("pick-place"))) as made:
        yield made


def demonstrate(env: gym.Env[Any, Any], task: str, seed: int) -> tuple[Any, Any, Any, bool]:
    """Return observations and states before each action and after the last, actions, success."""
    expert = make_expert(f"metaworld/{task}")
    expert.reset(np.random.default_rng(seed))
    observation, info = env.reset(seed=seed)
    seen, states, actions, over = [observation], [info["state"]], [], False
    while not over:
        actions.append(expert.act(observation))
        observation, reward, success, truncated, info = env.step(actions[-1])
        assert (reward, info["is_success"]) == (float(success), success)
        seen.append(observation)
        states.append(info["state"])
        over = success or truncated
    return seen, np.array(states), np.array(actions), success


def test_all_fifty_tasks_are_registered() -> None:
    names = {name.removesuffix("-v3") for name in metaworld.ALL_V3_ENVIRONMENTS}
    assert names == set(METAWORLD_TASKS)
    assert all(ENV.format(name) in gym.registry for name in METAWORLD_TASKS)
    assert pcm_policy.envs.METAWORLD_TASKS is METAWORLD_TASKS


@pytest.mark.parametrize("task", ["pick-place", "peg-insert-side", "door-open"])
def test_repeats_bit_by_bit_and_from_recorded_states(task: str) -> None:
    with closing(gym.make(ENV.format(task))) as env, closing(gym.make(ENV.format(task))) as other:
        seen, states, actions, success = demonstrate(env, task, 1)
        assert success
        other.reset(seed=77)
        for _ in range(10):  # a past that must leave no trace
            other.step(np.full(4, 0.7, np.float32))
        np.testing.assert_array_equal(demonstrate(other, task, 1)[1], states)
        k = len(actions) // 2
        observation, info = other.reset(options={"state": states[k]})
        np.testing.assert_array_equal(info["state"], states[k])
        for name in SIZES:
            np.testing.assert_array_equal(observation[name], seen[k][name])
        for j in range(k, len(actions)):
            _, _, _, _, info = other.step(actions[j])
            np.testing.assert_array_equal(info["state"], states[j + 1])


def test_seeds_name_different_goals_and_objects(env: gym.Env[Any, Any]) -> None:
    starts = [env.reset(seed=seed)[0] for seed in (0, 1, 0)]
    assert not np.array_equal(starts[0]["goal"], starts[1]["goal"])
    assert not np.array_equal(starts[0]["object"], starts[1]["object"])
    np.testing.assert_array_equal(starts[0]["goal"], starts[2]["goal"])


def test_expert_varies_speed_and_noise_but_not_without_being_asked(env: gym.Env[Any, Any]) -> None:
    expert = make_expert("metaworld/pick-place")
    observation, _ = env.reset(seed=0)
    acts = []
    for draw in (0, 0, 1):
        expert.reset(np.random.default_rng(draw))
        acts.append(expert.act(observation))
    np.testing.assert_array_equal(acts[0], acts[1])
    assert not np.array_equal(acts[0], acts[2])
    assert (np.abs(acts[0]) <= 1).all()


def test_wrong_states_are_refused(env: gym.Env[Any, Any]) -> None:
    with pytest.raises(PcmError, match=r"finite numbers of this task's info\['state'\]"):
        env.reset(options={"state": np.zeros(3)})


def test_a_missing_simulator_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[metaworld\]'") as caught:
        MetaWorld("reach")
    assert "\n" not in str(caught.value)


def test_unknown_experts_are_refused() -> None:
    with pytest.raises(PcmError, match="no expert knows task 'juggling'"):
        make_expert("juggling")


def towards_the_goal(
    observations: dict[str, Any], seeds: Any, ticks: Any
) -> np.ndarray[Any, np.dtype[np.float32]]:
    way = observations["goal"][:, -1] - observations["proprio"][:, -1, :3]
    grip = np.sin(seeds + ticks)[:, None]
    return np.repeat(np.concatenate([way * 5, grip], axis=1)[:, None], 8, axis=1)


def test_sync_and_async_give_identical_episodes() -> None:
    quick: dict[str, Any] = {"episodes": 3, "seed": 4, "solve_batch": 2, "max_steps": 40}
    name = ENV.format("reach")
    alone = evaluate(towards_the_goal, name, num_envs=1, record=True, **quick)
    beside = evaluate(towards_the_goal, name, num_envs=2, mode="async", record=True, **quick)
    assert alone.episodes == beside.episodes
    for one, other in zip(alone.trajectories, beside.trajectories, strict=True):
        np.testing.assert_array_equal(one.states, other.states)
    assert multiprocessing.active_children() == []
