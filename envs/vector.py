"""Several copies of one environment side by side, each executing whole action chunks."""

import importlib
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

import pcm_policy.envs  # noqa: F401 (registers the environments)
from pcm_policy.envs.record import reported_success
from pcm_policy.envs.workers import end_with_parent
from pcm_policy.errors import PcmError
from pcm_policy.history import History

Env = gym.Env[Any, Any]
Wrap = Callable[[Env], Env]
UNKNOWN = -1
"""``success`` of an environment that does not report any."""


class Frames(gym.Wrapper[Any, Any, Any, Any]):
    """Observe the newest frames, oldest first, (To, ...); the first one stands for those before.

    Args:
        env: the environment.
        obs_steps: frames, ``To``.
    """

    def __init__(self, env: Env, obs_steps: int) -> None:
        super().__init__(env)
        self._history = History(obs_steps)
        self.observation_space = batch_space(env.observation_space, obs_steps)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._history.clear()
        self._history.add(frame)
        return self._history.stacked(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Execute one action."""
        frame, *outcome, info = self.env.step(action)
        self._history.add(frame)
        return self._history.stacked(), *outcome, info


class ActionChunks(gym.Wrapper[Any, NDArray[np.float32], Any, NDArray[np.float32]]):
    """Let ``step`` execute a chunk of actions, (Ta, Da), and end early with the episode.

    The reward of a chunk is the best of its rewards, and minus infinity when none was executed.
    The info has ``steps``, the number of executed actions; ``success``, whether any succeeded
    (``UNKNOWN`` where the environment does not say); and ``finite``, whether all rewards were
    finite numbers. Rows with a NaN are "no action" and are skipped: an environment whose episode is
    over idles on them at no cost.

    ``action_space`` stays that of one action.

    An environment with an attribute ``draws`` is told by it which observations are looked at; the
    cameras of the others need not be drawn.

    Args:
        env: the environment.
        seen: newest frames of a chunk that are looked at, ``To``; None for all.

    Attributes:
        failed: Whether the last reset or step raised.
    """

    def __init__(self, env: Env, seen: int | None = None) -> None:
        super().__init__(env)
        self.failed, self._seen = False, seen
        self._last: tuple[Any, dict[str, Any]] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self.failed = True
        self._draw(True)
        self._last = self.env.reset(seed=seed, options=options)
        self.failed = False
        return self._last

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute the rows of ``action``, (Ta, Da), until the episode ends.

        Raises:
            PcmError: The environment was not reset.
        """
        if self._last is None:
            raise PcmError("reset the environment before its first step")
        self.failed = True
        observation, info = self._last
        best, steps, success, finite = -np.inf, 0, UNKNOWN, True
        terminated = truncated = False
        rows = [row for row in action if not np.isnan(row).any()]
        for left, row in zip(range(len(rows), 0, -1), rows, strict=True):
            if terminated or truncated:
                break
            self._draw(self._seen is None or left <= self._seen)
            observation, reward, terminated, truncated, info = self.env.step(row)
            finite &= math.isfinite(reward)
            best = max(best, float(reward))
            said = reported_success(info)
            success = max(success, UNKNOWN if said is None else int(said))
            steps += 1
        self._last, self.failed = (observation, info), False
        told = {"steps": steps, "success": success, "finite": finite}
        return observation, best, terminated, truncated, told

    def _draw(self, wanted: bool) -> None:
        """Tell the environment whether its next observation is looked at."""
        if hasattr(self.env.unwrapped, "draws"):
            self.env.unwrapped.draws = wanted


def _make(env_id: str, wrap: Wrap | None, env_kwargs: dict[str, Any], owner: int) -> Env:
    """Make one copy; in a process of its own, let that end with its owner and not by Ctrl-C."""
    if os.getpid() != owner:
        end_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # its owner ends it
    env = make_env(env_id, **env_kwargs)
    return env if wrap is None else wrap(env)


def make_env(env_id: str, **env_kwargs: Any) -> Env:
    """Make one environment.

    Args:
        env_id: A gymnasium id, ``module:name`` for one that ``module`` registers.
        **env_kwargs: For ``gymnasium.make``.

    Raises:
        PcmError: There is no such environment.
    """
    find_spec(env_id)
    env: Env = gym.make(env_id, disable_env_checker=True, **env_kwargs)
    return env


def make_vector(
    env_id: str,
    num_envs: int,
    mode: Literal["sync", "async"] = "sync",
    *,
    wrap: Wrap | None = None,
    **env_kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Make ``num_envs`` copies of an environment, in this process or one process each.

    Finished environments are never reset by themselves: reset them with
    ``options={"reset_mask": mask}``. Processes are spawned, so a script that asks for them needs
    its ``if __name__ == "__main__":`` guard; ``close`` ends them, and so does the end of this
    process.

    Args:
        env_id: A gymnasium id, ``module:name`` for one that ``module`` registers.
        num_envs: Number of copies, at least 1.
        mode: "sync" (one after the other) or "async" (one process each).
        wrap: Applied to each copy; must be picklable for "async".
        **env_kwargs: For ``gymnasium.make``.

    Returns:
        The vector environment, which the caller closes.

    Raises:
        PcmError: The id or the mode is unknown, or ``num_envs`` is below 1.
    """
    if num_envs < 1:
        raise PcmError(f"num_envs is at least 1, not {num_envs}")
    if mode not in ("sync", "async"):
        raise PcmError(f"mode is 'sync' or 'async', not {mode!r}")
    find_spec(env_id)
    copies = [partial(_make, env_id, wrap, env_kwargs, os.getpid())] * num_envs
    if mode == "sync":
        return SyncVectorEnv(copies, autoreset_mode=AutoresetMode.DISABLED)
    return AsyncVectorEnv(copies, context="spawn", autoreset_mode=AutoresetMode.DISABLED)


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """Look up a gymnasium id; of ``module:name``, the module is imported, which registers it.

    Raises:
        PcmError: There is no such environment or module, or the module does not import.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise PcmError(f"no environment {env_id!r}: {error}") from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise PcmError(f"no environment {env_id!r}: importing {module}: {text}") from error
