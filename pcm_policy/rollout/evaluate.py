"""Closed-loop evaluation of anything that maps observations to action chunks.

Episode i has environment seed `seed + i` and always sits in row `i % solve_batch` of a prediction
of exactly `solve_batch` rows. If the rows of `predict` do not influence each other, the results
are therefore bitwise the same for every number of environments, in one process or many.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from gymnasium.wrappers import FrameStackObservation
from tqdm import tqdm

from pcm_policy.envs.record import Trajectory, record
from pcm_policy.envs.vector import ActionChunks, Env, find_spec, make_vector
from pcm_policy.errors import PcmError
from pcm_policy.measure.statistics import bootstrap_mean_interval, wilson_interval
from pcm_policy.rollout.episodes import (
    Interrupted,
    Predict,
    Run,
    check_repeat,
    repeat,
    run_episodes,
)


@dataclass(frozen=True)
class EpisodeOutcome:
    """How one episode went.

    Attributes:
        seed: Environment seed.
        score: Best reward.
        success: Whether the environment reported success.
        steps: Executed actions.
    """

    seed: int
    score: float
    success: bool
    steps: int


@dataclass(frozen=True)
class EvalResult:
    """Outcomes in the order of their seeds, and their statistics.

    Attributes:
        episodes: One outcome an episode.
        trajectories: One an episode if they were asked for, else none.
    """

    episodes: tuple[EpisodeOutcome, ...]
    trajectories: tuple[Trajectory, ...] = ()

    @property
    def score(self) -> float:
        """Mean score."""
        return float(np.mean([episode.score for episode in self.episodes]))

    @property
    def score_ci95(self) -> tuple[float, float]:
        """Bootstrap interval of the mean score."""
        return bootstrap_mean_interval([episode.score for episode in self.episodes])

    @property
    def success(self) -> float:
        """Success rate."""
        return float(np.mean([episode.success for episode in self.episodes]))

    @property
    def success_ci95(self) -> tuple[float, float]:
        """Wilson interval of the success rate."""
        successes = sum(episode.success for episode in self.episodes)
        return wilson_interval(successes, len(self.episodes))

    def to_json(self) -> dict[str, Any]:
        """Give everything but the trajectories as plain Python values."""
        return {
            "score": {"mean": self.score, "ci95": list(self.score_ci95)},
            "success": {"rate": self.success, "ci95": list(self.success_ci95)},
            "episodes": [asdict(episode) for episode in self.episodes],
        }


class EvaluationCut(PcmError):
    """An environment failed; ``result`` has the episodes that had finished, if any."""

    def __init__(self, message: str, result: EvalResult) -> None:
        super().__init__(message)
        self.result = result


def evaluate(
    predict: Predict,
    env_id: str,
    *,
    episodes: int,
    seed: int,
    n_obs_steps: int = 2,
    num_envs: int = 32,
    mode: Literal["sync", "async"] = "sync",
    solve_batch: int = 32,
    max_steps: int | None = None,
    video_episodes: Iterable[int] = (),
    video_dir: Path | None = None,
    record: bool = False,
    progress: bool = True,
    **env_kwargs: Any,
) -> EvalResult:
    """Run episodes in receding horizon: predict a chunk, execute all of it, predict again.

    An environment whose episode is over takes its next one when the others re-plan. Films and
    trajectories are made afterwards, by repeating the executed actions.

    Args:
        predict: The policy; see `pcm_policy.rollout.episodes.Predict`.
        env_id: A gymnasium id.
        episodes: Number of episodes, at least 1.
        seed: Environment seed of the first one; the others count on from it.
        n_obs_steps: To; the first frame is repeated at the start of an episode.
        num_envs: Environments side by side; no prediction has free rows at `solve_batch`.
        mode: "sync" (this process) or "async" (one process an environment).
        solve_batch: Rows of every prediction.
        max_steps: Longest episode; None takes the environment's own limit.
        video_episodes: Numbers, from 0, of the episodes to film.
        video_dir: Folder for `episode_<seed>.mp4`, needed if any is filmed.
        record: Also return the trajectories.
        progress: Show a bar, if the terminal is interactive.
        **env_kwargs: For `gymnasium.make`.

    Returns:
        Outcomes and statistics.

    Raises:
        EvaluationCut: An environment raised, or its process died.
        PcmError: An argument is out of range, `predict` returned a wrong shape or a value that
            is not finite (which is never executed), or an episode to film or to record did not
            repeat exactly.
    """
    films = sorted(set(video_episodes))
    if min(episodes, n_obs_steps, num_envs, solve_batch) < 1 or seed < 0:
        raise PcmError("episodes, n_obs_steps, num_envs, solve_batch are at least 1, seed 0")
    if max_steps is not None and max_steps < 1:
        raise PcmError(f"max_steps is at least 1, not {max_steps}")
    if films and (video_dir is None or films[0] < 0 or films[-1] >= episodes):
        raise PcmError(f"films need video_dir and episode numbers below {episodes}, not {films}")
    if max_steps is not None:
        env_kwargs["max_episode_steps"] = max_steps
    elif find_spec(env_id).max_episode_steps is None:
        raise PcmError(f"{env_id} has no limit of its own: give max_steps")

    wrap = partial(_wrap, n_obs_steps=n_obs_steps)
    envs = make_vector(env_id, min(num_envs, episodes), mode, wrap=wrap, **env_kwargs)
    with (
        closing(envs),
        tqdm(total=episodes, desc=env_id, unit="ep", disable=None if progress else True) as bar,
    ):
        try:
            runs = run_episodes(predict, envs, episodes, seed, solve_batch, bar)
        except Interrupted as error:
            raise EvaluationCut(str(error), EvalResult(_outcomes(error.runs))) from error

    env_kwargs["disable_env_checker"] = True
    trajectories = []
    if record:
        with closing(gym.make(env_id, **env_kwargs)) as env:
            trajectories = [_record(run, env) for run in runs]
    if films and video_dir is not None:
        with closing(gym.make(env_id, **env_kwargs | {"render_mode": "rgb_array"})) as env:
            for i in films:
                _film(runs[i], env, video_dir)
    return EvalResult(_outcomes(runs), tuple(trajectories))


def _outcomes(runs: Sequence[Run]) -> tuple[EpisodeOutcome, ...]:
    return tuple(EpisodeOutcome(run.seed, run.score, run.success, run.steps) for run in runs)


def _wrap(env: Env, n_obs_steps: int) -> Env:
    return ActionChunks(FrameStackObservation(env, n_obs_steps))


def _record(run: Run, env: Env) -> Trajectory:
    actions = iter(run.actions)
    trajectory = record(env, run.seed, lambda _: next(actions, run.actions[-1]))
    check_repeat(run, float(trajectory.rewards.max()), len(trajectory.actions))
    return trajectory


def _film(run: Run, env: Env, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".episode_{run.seed}.part.mp4"
    writer: Any = imageio.get_writer(part, fps=env.metadata["render_fps"])
    with writer:
        for _ in repeat(run, env):
            writer.append_data(env.render())
    os.replace(part, folder / f"episode_{run.seed}.mp4")
