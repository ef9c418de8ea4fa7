"""Episodes once more: trajectories and films are made by repeating what was executed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.record import Trajectory, record
from pcm_policy.envs.vector import Env, make_env
from pcm_policy.errors import PcmError
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.trials import Trials


def repeat(run: Run, env: Env) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Repeat an episode, yielding observation and info before each action and after the last.

    Raises:
        PcmError: The environment did not give the same score again.
    """
    observation, info = env.reset(seed=run.seed)
    yield observation, info
    score = -np.inf
    for action in run.actions:
        observation, reward, _, _, info = env.step(action)
        score = max(score, float(reward))
        yield observation, info
    check_repeat(run, score, run.steps)


def check_repeat(run: Run, score: float, steps: int) -> None:
    """Compare an episode with what its repeat gave.

    Raises:
        PcmError: The environment did not give the same again.
    """
    if (score, steps) != (run.score, run.steps):
        raise PcmError(f"the environment does not repeat: {score}, not {run.score}, at {run.seed}")


def trajectories(runs: Sequence[Run], trials: Trials) -> tuple[Trajectory, ...]:
    """Repeat episodes and write them down, but for those that a fault ended.

    Raises:
        PcmError: the environment gives no ``info["state"]``, or did not repeat.
    """
    with closing(make_env(trials.env_id, **trials.kwargs)) as env:
        return tuple(_recorded(run, env) for run in runs if run.fault is None)


def _recorded(run: Run, env: Env) -> Trajectory:
    executed = run.actions
    actions = iter(executed)
    trajectory = record(env, run.seed, lambda _: next(actions, executed[-1]))
    check_repeat(run, float(trajectory.rewards.max()), len(trajectory.actions))
    return trajectory


class Films:
    """Films of some episodes, made after all of them.

    Args:
        trials: the episodes.
        numbers: which of them, from 0.
        folder: gets ``episode_<seed>.mp4``.
        fps: frames a second where the environment does not say; the task's control rate.

    Raises:
        PcmError: a number of an episode that is not run.
    """

    def __init__(
        self, trials: Trials, numbers: Sequence[int], folder: Path, fps: float = 10.0
    ) -> None:
        self.trials, self.folder, self.fps = trials, folder, fps
        self.numbers = sorted(set(numbers))
        if self.numbers and not 0 <= self.numbers[0] <= self.numbers[-1] < trials.episodes:
            raise PcmError(
                f"video_episodes={list(numbers)}: use episode numbers below {trials.episodes}"
            )

    def check(self) -> None:
        """Draw and write one frame, so that what cannot be filmed is known before any episode.

        Raises:
            PcmError: it cannot be drawn, encoded or written.
        """
        if not self.numbers:
            return
        scratch = self.folder / ".frame.part.mp4"
        try:
            with closing(self._drawing()) as env:
                env.reset(seed=self.trials.seed)
                self._write(scratch, iter([self._frame(env)]), env)
        except Exception as error:
            raise PcmError(f"video_episodes: cannot film {self.trials.env_id}: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)

    def make(self, runs: Sequence[Run]) -> list[Path]:
        """Film the chosen ones of some runs.

        Raises:
            PcmError: the environment cannot be drawn, did not repeat, or the disk is full.
        """
        if not self.numbers:
            return []
        made = []
        try:
            with closing(self._drawing()) as env:
                for run in (run for run in runs if run.index in self.numbers):
                    part = self.folder / f".episode_{run.seed}.part.mp4"
                    frames = (self._frame(env) for _ in repeat(run, env))
                    self._write(part, frames, env)
                    made.append(self.path(self.folder, run.seed))
                    os.replace(part, made[-1])
        except PcmError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise PcmError(f"films were not made: {type(error).__name__}: {text}") from error
        return made

    @staticmethod
    def path(folder: Path, seed: int) -> Path:
        """Return where the film of an episode is, once it is made."""
        return folder / f"episode_{seed}.mp4"

    def _drawing(self) -> Env:
        return make_env(self.trials.env_id, **self.trials.kwargs | {"render_mode": "rgb_array"})

    @staticmethod
    def _frame(env: Env) -> NDArray[np.uint8]:
        frame: Any = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise PcmError(f"render() gave {type(frame).__name__} and no picture (H, W, 3)")
        return frame

    def _write(self, path: Path, frames: Iterator[NDArray[np.uint8]], env: Env) -> None:
        import imageio.v2 as imageio  # of some megabytes, for whoever films

        self.folder.mkdir(parents=True, exist_ok=True)
        fps = env.metadata.get("render_fps") or self.fps
        writer: Any = imageio.get_writer(path, fps=fps)
        with writer:
            for frame in frames:
                writer.append_data(frame)
