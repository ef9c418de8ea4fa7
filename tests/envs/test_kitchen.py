"""Franka Kitchen for real: it is gymnasium-robotics', and repeats bit by bit with its noise."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pcm_policy.envs  # noqa: F401 (registers it)
from pcm_policy.cli.compose import compose
from pcm_policy.cli.train import train_main
from pcm_policy.datasets.formats.loading import load
from pcm_policy.datasets.formats.minari import read_minari
from pcm_policy.envs.kitchen import TASKS, Kitchen, generator_words, set_generator
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy

robotics = pytest.importorskip("gymnasium_robotics")
ENV = "pcm_policy/FrankaKitchen-v0"
Env = gym.Env[Any, Any]


@pytest.fixture(scope="module")
def env() -> Iterator[Env]:
    with closing(gym.make(ENV)) as made:
        yield made


def drawn_actions(seed: int, steps: int) -> Any:
    return np.random.default_rng(seed).uniform(-1.3, 1.3, (steps, 9)).astype(np.float32)


def walk(env: Env, seed: int, steps: int = 30) -> tuple[Any, Any, Any]:
    """Return observations and states before each drawn action and after the last; actions."""
    observation, info = env.reset(seed=seed)
    seen, states = [observation["observation"]], [info["state"]]
    actions = drawn_actions(seed, steps)
    for action in actions:
        observation, _, _, _, info = env.step(action)
        seen.append(observation["observation"])
        states.append(info["state"])
    return np.array(seen), np.array(states), actions


@pytest.mark.parametrize("start", [0, 12])
def test_repeats_bit_by_bit_and_from_recorded_states(env: Env, start: int) -> None:
    seen, states, actions = walk(env, 1)
    with closing(gym.make(ENV)) as other:
        walk(other, 77, 5)  # a past that must leave no trace
        np.testing.assert_array_equal(walk(other, 1)[1], states)
        observation, info = other.reset(options={"state": states[start]})
        np.testing.assert_array_equal(info["state"], states[start])
        np.testing.assert_array_equal(observation["observation"], seen[start])
        for j in range(start, len(actions)):
            observation, _, _, _, info = other.step(actions[j])
            np.testing.assert_array_equal(info["state"], states[j + 1])
            np.testing.assert_array_equal(observation["observation"], seen[j + 1])


def test_it_is_gymnasium_robotics_own(env: Env) -> None:
    gym.register_envs(robotics)
    theirs = gym.make("FrankaKitchen-v1", tasks_to_complete=list(TASKS), disable_env_checker=True)
    for seed in (0, 100_000):
        seen, _ = env.reset(seed=seed)
        expected, _ = theirs.reset(seed=seed)
        for action in drawn_actions(seed, 20):
            wanted = expected["observation"].astype(np.float32)
            np.testing.assert_array_equal(seen["observation"], wanted)
            seen, *_ = env.step(action)
            expected, *_ = theirs.step(action.astype(np.float64))
    theirs.close()


def test_what_is_done_stays_done_and_all_of_it_ends_the_episode(env: Env) -> None:
    """Things are put where they belong; a task counts once, and the last one is a success."""
    kitchen: Any = env.unwrapped
    env.reset(seed=0)
    indices = sys.modules[type(kitchen._env).__module__].OBS_ELEMENT_INDICES
    goals = kitchen._env.goal
    for k, task in enumerate(TASKS, start=1):
        start = kitchen._env.data.qpos[indices[task]].copy()
        kitchen._env.data.qpos[indices[task]] = goals[task]
        _, reward, success, _, info = env.step(np.zeros(9, np.float32))
        assert (reward, success, info["is_success"]) == (k / 4, k == 4, k == 4)
        kitchen._env.data.qpos[indices[task]] = start
        if k < 4:
            assert env.step(np.zeros(9, np.float32))[1] == k / 4
    observation, again = env.reset(options={"state": info["state"]})
    np.testing.assert_array_equal(again["state"], info["state"])
    assert again["is_success"]
    assert env.observation_space.contains(observation)
    assert not env.reset(seed=0)[1]["is_success"]


def test_seeds_name_noise(env: Env) -> None:
    seen = [env.reset(seed=seed)[0]["observation"] for seed in (0, 1, 0)]
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


def test_a_generator_goes_back_to_its_words() -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(4)
    first.uniform(size=5)
    words = generator_words(first)
    set_generator(second, words)
    np.testing.assert_array_equal(generator_words(second), words)
    np.testing.assert_array_equal(first.uniform(size=20), second.uniform(size=20))


def test_what_is_wrong_is_refused(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PcmError, match=r"finite numbers of this task's info\['state'\]"):
        env.reset(options={"state": np.zeros(3)})
    for state in (np.full(110, np.nan), "start"):
        with pytest.raises(PcmError, match=r"options\['state'\] is 110 finite numbers"):
            env.reset(options={"state": state})
    for tasks in (["oven"], ["kettle", "kettle"], "kettle", [], None, 5):
        with pytest.raises(PcmError, match=r"tasks are some of .*microwave.*, each once, not"):
            Kitchen(tasks)  # type: ignore[arg-type]
    env.reset(seed=0)
    for action in (np.zeros(8), 0.5, np.full(9, np.nan)):
        with pytest.raises(PcmError, match="an action is 9 finite numbers"):
            env.step(action)
    assert env.render() is None
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[adroit\]'"):
        Kitchen()


def recorded(theirs: Env, seed: int, steps: int) -> tuple[dict[str, Any], Any]:
    """Return the nested observations before each drawn action and after the last; the actions."""
    observations = [theirs.reset(seed=seed)[0]]
    actions = np.clip(drawn_actions(seed, steps), -1.0, 1.0).astype(np.float64)
    observations += [theirs.step(action)[0] for action in actions]
    goals: dict[str, Any] = {
        name: {task: np.array([one[name][task] for one in observations]) for task in TASKS}
        for name in ("achieved_goal", "desired_goal")
    }
    return {"observation": np.array([one["observation"] for one in observations]), **goals}, actions


def test_minaris_recording_of_it_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the layout of ``D4RL/kitchen/complete-v2``: goals are dictionaries beside what is seen."""
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    gym.register_envs(robotics)
    theirs = gym.make("FrankaKitchen-v1", tasks_to_complete=list(TASKS), disable_env_checker=True)
    episodes = [recorded(theirs, seed, 12) for seed in range(2)]
    minari.create_dataset_from_buffers(
        "tests/kitchen-v0",
        [
            EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=np.zeros(12),
                terminations=np.zeros(12, bool),
                truncations=np.arange(12) == 11,
            )
            for observations, actions in episodes
        ],
        env=theirs,
        author={"someone"},
        description="drawn",
    )
    theirs.close()
    buffer = load(read_minari(Path("minari:tests/kitchen-v0")))
    seen = np.concatenate([one["observation"][:-1] for one, _ in episodes])
    np.testing.assert_array_equal(buffer.arrays["observation"][:], seen)
    np.testing.assert_array_equal(
        buffer.arrays["action"][:], np.concatenate([actions for _, actions in episodes])
    )
    assert list(buffer.episode_ends) == [12, 24]
    words = ["task=kitchen", "dataset.path=minari:tests/kitchen-v0", "dataset.val_fraction=0"]
    words += ["train.steps=3", "train.batch=4", "device=cpu", f"output_dir={tmp_path}/run"]
    train_main(compose("train", words))
    config = DiffusionPolicy.from_pretrained(tmp_path / "run/policy").config
    assert (config.obs_fields, config.task, config.action_dim) == (("observation",), "kitchen", 9)
