"""Evaluation against a slow, obvious loop; independence of the number of environments."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.rollout.chunks import ChunkAgent
from pcm_policy.rollout.evaluate import EpisodeOutcome, EvalResult, EvaluationCut, evaluate
from pcm_policy.rollout.repeats import Films
from pcm_policy.rollout.trials import Trials

ENV = "pcm_policy/PushTKeypoints-v0"
TA = 8
QUICK: dict[str, Any] = {"seed": 5, "max_steps": 60, "progress": False}


def scripted(
    observations: NDArray[np.float32], seeds: NDArray[np.int64], ticks: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Circle the block's centre, by an amount that every argument enters."""
    centre = observations[:, :, :18].reshape(*observations.shape[:2], 9, 2).mean(axis=2)
    angle = (seeds + ticks / 10)[:, None] + np.arange(TA) / 3
    circle = 70 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    drift = 5 * (centre[:, -1] - centre[:, 0])
    return ((centre[:, -1] + drift)[:, None] + circle).astype(np.float32)


def obvious(seed: int, n_obs_steps: int, max_steps: int) -> tuple[EpisodeOutcome, list[Any]]:
    env = gym.make(ENV, max_episode_steps=max_steps)
    observation, _ = env.reset(seed=seed)
    frames, actions, rewards = [observation], [], []
    while True:
        history = [frames[max(0, len(frames) - n_obs_steps + i)] for i in range(n_obs_steps)]
        if len(frames) < n_obs_steps:
            history = [frames[0]] * (n_obs_steps - len(frames)) + frames
        chunk = scripted(np.array([history]), np.array([seed]), np.array([len(actions)]))[0]
        for action in chunk:
            observation, reward, terminated, truncated, info = env.step(action)
            frames.append(observation)
            actions.append(action)
            rewards.append(reward)
            if terminated or truncated:
                success = bool(info["is_success"])
                outcome = EpisodeOutcome(seed, max(map(float, rewards)), success, len(actions))
                return outcome, [np.array(frames[:-1]), np.array(actions)]


@pytest.fixture(scope="module")
def reference() -> EvalResult:
    return evaluate(scripted, ENV, episodes=7, num_envs=7, solve_batch=4, record=True, **QUICK)


def test_equals_the_obvious_loop(reference: EvalResult) -> None:
    for i, (outcome, trajectory) in enumerate(
        zip(reference.episodes, reference.trajectories, strict=True)
    ):
        expected, (frames, actions) = obvious(5 + i, 2, 60)
        assert outcome == expected
        assert isinstance(trajectory.observations, np.ndarray)
        np.testing.assert_array_equal(trajectory.observations[:-1], frames)
        np.testing.assert_array_equal(trajectory.actions, actions)
        np.testing.assert_allclose(trajectory.states[:-1, :2], frames[:, 18:], rtol=1e-6)
        assert trajectory.rewards.max() == outcome.score
    assert len({outcome.score for outcome in reference.episodes}) > 2


def test_longer_histories_repeat_the_first_frame() -> None:
    result = evaluate(scripted, ENV, episodes=1, n_obs_steps=11, **QUICK)
    assert result.episodes[0] == obvious(5, 11, 60)[0]


@pytest.mark.parametrize("num_envs", [1, 2, 3, 4, 5, 32])
def test_number_of_environments_changes_nothing(reference: EvalResult, num_envs: int) -> None:
    rows: dict[tuple[int, int], int] = {}

    def predict(
        observations: NDArray[np.float32], seeds: NDArray[np.int64], ticks: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Give another result in any other row than the episode's own."""
        assert len(observations) == len(seeds) == len(ticks) == 4
        actions = scripted(observations, seeds, ticks)
        actions[(seeds - 5) % 4 != np.arange(4)] += 10
        for row, key in enumerate(zip(seeds.tolist(), ticks.tolist(), strict=True)):
            if row == (key[0] - 5) % 4:
                rows[key] = rows.get(key, 0) + 1
        return actions

    result = evaluate(predict, ENV, episodes=7, num_envs=num_envs, solve_batch=4, **QUICK)
    assert result.episodes == reference.episodes
    assert set(rows.values()) == {1}  # nothing is predicted twice
    assert result.trajectories == ()


def test_async_changes_nothing_and_leaves_no_process(reference: EvalResult) -> None:
    result = evaluate(scripted, ENV, episodes=7, num_envs=3, solve_batch=4, mode="async", **QUICK)
    assert result.episodes == reference.episodes
    assert multiprocessing.active_children() == []


class Line(gym.Env[Any, Any]):
    """Walk right from a random integer; a success at 10. Rewards are the position / 10."""

    observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-10, 10, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = float(seed or 0)
        return np.array([self.position], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.isfinite(action).all()
        self.position += float(action[0])
        observation, there = np.array([self.position], np.float32), self.position >= 10
        return observation, self.position / 10, there, False, {"is_success": there}


class Drifting(Line):
    """Differs at every reset, so that nothing repeats."""

    resets = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        Drifting.resets += 1
        observation, info = super().reset(**kwargs)
        self.position += Drifting.resets
        return observation, info | {"state": np.zeros(1)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *others, info = super().step(action)
        return *others, info | {"state": np.zeros(1)}  # type: ignore[return-value]


gym.register("pcm_policy_test/Line-v0", Line)
gym.register("pcm_policy_test/Drifting-v0", Drifting)


def step_right(observations: Any, seeds: Any, ticks: Any) -> NDArray[np.float32]:
    return np.ones((len(observations), 3, 1), np.float32)


def test_success_ends_an_episode_early() -> None:
    result = evaluate(
        step_right, "pcm_policy_test/Line-v0", episodes=5, seed=0, num_envs=2, max_steps=8
    )
    steps = [episode.steps for episode in result.episodes]
    assert steps == [8, 8, 8, 7, 6]
    assert [episode.success for episode in result.episodes] == [False, False, True, True, True]
    assert [episode.score for episode in result.episodes] == [0.8, 0.9, 1.0, 1.0, 1.0]


def test_result_is_json(reference: EvalResult) -> None:
    report = json.loads(json.dumps(reference.to_json()))
    assert set(report) == {"score", "success", "episodes"}
    assert report["episodes"][2] == {
        "seed": 7,
        "score": reference.episodes[2].score,
        "success": False,
        "steps": 60,
    }
    low, high = report["score"]["ci95"]
    assert low <= report["score"]["mean"] <= high
    assert report["success"]["rate"] == 0
    assert report["success"]["ci95"][0] == 0


def test_dict_observations_are_recorded() -> None:
    def predict(observations: Any, seeds: Any, ticks: Any) -> NDArray[np.float32]:
        assert observations["image"].shape == (2, 2, 96, 96, 3)
        return np.repeat(observations["agent_pos"][:, -1:], 4, axis=1)

    result = evaluate(
        predict,
        "pcm_policy/PushTImage-v0",
        episodes=1,
        seed=0,
        solve_batch=2,
        max_steps=6,
        record=True,
    )
    observations = result.trajectories[0].observations
    assert isinstance(observations, dict)
    assert observations["image"].shape == (7, 96, 96, 3)


def test_films_the_chosen_episodes(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    trials = Trials(ENV, 3, seed=5, max_steps=60)
    films = Films(trials, [1], folder)
    films.check()
    assert list(folder.iterdir()) == []
    films.make(trials.run(ChunkAgent(scripted, 2, 32), progress=False))
    assert [path.name for path in folder.iterdir()] == ["episode_6.mp4"]
    film = imageio.get_reader(folder / "episode_6.mp4")
    assert film.get_meta_data()["fps"] == 10
    assert film.count_frames() == 61
    assert film.get_data(60).shape == (512, 512, 3)
    film.close()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_actions_are_never_executed(value: float) -> None:
    def predict(observations: Any, seeds: Any, ticks: Any) -> NDArray[np.float32]:
        actions = step_right(observations, seeds, ticks)
        actions[1, -1] = value if ticks[1] >= 3 else 1
        return actions

    result = evaluate(predict, "pcm_policy_test/Line-v0", episodes=2, seed=0, max_steps=9)
    whole, ended = result.episodes
    assert (whole.steps, whole.fault) == (9, None)
    assert (ended.steps, ended.score, ended.success) == (3, 0.4, False)
    assert ended.fault == (
        "step 3: predict returned an action that is not finite; it was not executed"
    )
    assert result.to_json()["ended_early"] == 1


@pytest.mark.parametrize("shape", [(32, 8), (32, 8, 3), (31, 8, 1), (32, 0, 1)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    def predict(*_: Any) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    with pytest.raises(PcmError, match="predict must return"):
        evaluate(predict, "pcm_policy_test/Line-v0", episodes=2, seed=0, max_steps=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"solve_batch": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
        ({"max_steps": 0}, "at least 1"),
        ({"max_steps": None}, "max_steps"),
        ({"record": True}, "state"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"episodes": 2, "seed": 0, "max_steps": 9}
    with pytest.raises(PcmError, match=message):
        evaluate(step_right, "pcm_policy_test/Line-v0", **defaults | arguments)


def test_an_environment_that_does_not_repeat_is_not_recorded() -> None:
    with pytest.raises(PcmError, match="does not repeat"):
        evaluate(
            step_right,
            "pcm_policy_test/Drifting-v0",
            episodes=1,
            seed=0,
            max_steps=9,
            record=True,
        )


def test_a_dead_process_is_named_and_what_had_finished_is_kept(reference: EvalResult) -> None:
    def predict(
        observations: NDArray[np.float32], seeds: NDArray[np.int64], ticks: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if 10 in seeds and ticks[seeds == 10][0] > 8:  # kill the one that runs episode 5
            workers = {int(p.name.split("-")[1].split(">")[0]): p for p in active()}
            os.kill(workers[2].pid or 0, signal.SIGKILL)
        return scripted(observations, seeds, ticks)

    def active() -> list[Any]:
        return [p for p in multiprocessing.active_children() if p.name.startswith("Worker<")]

    with pytest.raises(EvaluationCut, match=r"environment 2, episode of seed 10, died") as caught:
        evaluate(predict, ENV, episodes=7, num_envs=3, solve_batch=4, mode="async", **QUICK)
    assert "(signal 9); 3 of 7 episodes had finished" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.result.episodes == reference.episodes[:3]
    assert multiprocessing.active_children() == []


class Brittle(Line):
    """Breaks at position 7."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.position == 7:
            raise RuntimeError("the arm\ncame off")
        return super().step(action)


gym.register("pcm_policy_test/Brittle-v0", Brittle)


def test_an_environment_that_raises_ends_the_run_with_what_had_finished() -> None:
    seeds = {"episodes": 4, "seed": 8, "max_steps": 9}
    assert evaluate(step_right, "pcm_policy_test/Brittle-v0", **seeds).success == 1
    with pytest.raises(EvaluationCut, match="raised RuntimeError: the arm came off") as caught:
        evaluate(
            step_right, "pcm_policy_test/Brittle-v0", episodes=9, seed=0, num_envs=1, max_steps=5
        )
    assert [episode.seed for episode in caught.value.result.episodes] == [0, 1, 2]
