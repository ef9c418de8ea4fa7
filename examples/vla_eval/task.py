"""A gymnasium environment as a benchmark of vla-eval: ours, or one of yours.

Used by ``pusht.yaml``; docs/control.md has the two commands. An episode is over when the
environment says so; episode i is reset with ``seed + i``.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import RAW, DimSpec
from vla_eval.types import Action, EpisodeResult, Observation, Task

import pcm_policy.envs  # noqa: F401 (registers the environments)


class GymTask(StepBenchmark):
    """One task, one environment.

    Args:
        env_id: a gymnasium id.
        seed: of episode 0.
        env_kwargs: for ``gymnasium.make``.
    """

    _ALL_RECORD_FIELDS = frozenset({"reward"})
    render_backends = frozenset({"gpu", "cpu"})

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        """Nothing is rendered."""
        return {}

    def __init__(
        self, env_id: str, seed: int = 0, env_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._env_id, self._seed = env_id, seed
        self._env = gym.make(env_id, disable_env_checker=True, **(env_kwargs or {}))
        self._best, self._success = -np.inf, False

    def get_tasks(self) -> list[Task]:
        """Return the one task."""
        return [{"name": self._env_id, "suite": "pcm_policy", "task_description": self._env_id}]

    def reset(self, task: Task) -> Any:
        """Begin the episode that the task names."""
        self._best, self._success = -np.inf, False
        return self._env.reset(seed=self._seed + int(task.get("episode_idx", 0)))[0]

    def step(self, action: Action) -> StepResult:
        """Execute an action."""
        given = np.asarray(action["actions"], self._env.action_space.dtype)
        seen, reward, terminated, truncated, info = self._env.step(given)
        self._best = max(self._best, float(reward))
        self._success |= bool(info.get("is_success", info.get("success", False)))
        self._recorder.record_step(reward=float(reward))
        return StepResult(seen, float(reward), bool(terminated or truncated), info)

    def make_obs(self, raw_obs: Any, task: Task) -> Observation:
        """Return the numbers as ``state``; entries of a dictionary by their own names."""
        if not isinstance(raw_obs, dict):
            return {"state": np.asarray(raw_obs), "task_description": self._env_id}
        pictures = {k: v for k, v in raw_obs.items() if v.dtype == np.uint8 and v.ndim == 3}
        others = {k: v for k, v in raw_obs.items() if k not in pictures}
        return {"images": pictures, **others, "task_description": self._env_id}

    def get_step_result(self, step_result: StepResult) -> EpisodeResult:
        """Return whether any step succeeded, and the best reward, which is the score."""
        return {"success": self._success, "score": self._best}

    def get_metric_keys(self) -> dict[str, str]:
        """Return what is averaged."""
        return {"success": "mean", "score": "mean"}

    def get_metadata(self) -> dict[str, Any]:
        """Return the length of an episode."""
        spec = self._env.spec
        return {"max_steps": spec.max_episode_steps if spec else None}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Return the shape of an action."""
        return {
            "actions": DimSpec(
                "actions", int(np.prod(self._env.action_space.shape or ())), RAW.format
            )
        }

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Return that observations are as the environment gives them."""
        return {"state": RAW}

    def cleanup(self) -> None:
        """Close the environment."""
        self._env.close()
