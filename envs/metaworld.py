"""Meta-World's fifty tasks (Yu et al. 2020; version 3) as environments that a seed determines.

Lengths are metres; one step is 12.5 ms. Meta-World's id ``Meta-World/goal_observable`` makes the
simulator; objects and goal of an episode are drawn from the task's own ranges, from its seed alone.
"""

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.mujoco_state import MujocoState
from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.errors import PcmError

Observation = dict[str, NDArray[np.float32]]

SIZES = {"proprio": 4, "object": 14, "goal": 3}
"""Entries of an observation and their lengths; Meta-World's own puts a second frame before goal."""
CAMERA = "corner2"


def import_metaworld() -> Any:
    """Import the simulator.

    Raises:
        PcmError: it is not installed; the message holds the line that installs it.
    """
    try:
        return importlib.import_module("metaworld")
    except ImportError as error:
        raise PcmError(
            f"Meta-World's tasks need metaworld ({error}): pip install 'pcm_policy[metaworld]'"
        ) from error


def split(values: NDArray[np.float64]) -> Observation:
    """Name the parts of Meta-World's 39 numbers; the earlier frame among them is left out."""
    now, goal = values[:18], values[-3:]
    parts = {"proprio": now[:4], "object": now[4:], "goal": goal}
    return {name: part.astype(np.float32) for name, part in parts.items()}


class MetaWorld(gym.Env[Observation, NDArray[np.float32]]):
    """One of Meta-World's tasks, its goal in the observation.

    Observation space: dict of ``proprio`` (4,), hand x, y, z and gripper opening (0 to 1);
    ``object`` (14,), position and quaternion of up to two objects, zeros where there is none;
    ``goal`` (3,).

    Action space: (4,) in [-1, 1], move of the hand (1 is 1 cm) and grip (1 closes).

    Rewards: 1 on success, else 0, so that a score is a success, which is what users of Meta-World
    report. Its dense reward (0 to 10) is ``info["dense_reward"]``.

    Starting state: ``reset(seed=s)`` draws objects and goal from the task's ranges, a function of s
    alone. ``reset(options={"state": info["state"]})`` goes back to a recorded state, exactly.

    Episode end: ``terminated`` on success; 500 steps (by the registration).

    Info: ``state``: the numbers that objects and goal were drawn as, then MuJoCo's state (time,
    positions, velocities, warm start, controls, hand target); ``is_success``; ``dense_reward``.

    Args:
        task: Meta-World's name without its version, such as ``pick-place``.
        render_mode: None or "rgb_array".

    Raises:
        PcmError: Meta-World is not installed, or the render mode is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (gymnasium's)

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        import_metaworld()
        made: Any = gym.make(
            "Meta-World/goal_observable", env_name=f"{task}-v3", seed=0, disable_env_checker=True
        )
        self._env = made.unwrapped
        self._env.seeded_rand_vec = True
        self._env.render_mode = render_mode
        self._env.mujoco_renderer.camera_name = CAMERA
        self._env.mujoco_renderer.camera_id = None
        self._state = MujocoState(self._env.model, self._env.data)
        boxes: dict[str, gym.spaces.Space[Any]] = {
            name: gym.spaces.Box(-np.inf, np.inf, (n,), np.float32) for name, n in SIZES.items()
        }
        self.observation_space: gym.spaces.Space[Any] = gym.spaces.Dict(boxes)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for ``options["state"]``.

        Raises:
            PcmError: ``options["state"]`` is not a state of this task.
        """
        super().reset(seed=seed)
        draw = int(self.np_random.integers(2**31)) if seed is None else seed
        self._env.np_random = np.random.default_rng(draw)
        self._env._freeze_rand_vec = False
        # Meta-World sets a scene up twice, the first time on what the last episode left.
        self._state.clear()
        if options is not None and "state" in options:
            values = self._set_state(options["state"])
        else:
            values, _ = self._env.reset()
        return split(values), self._info(False, 0.0)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the hand and the gripper for 12.5 ms."""
        clipped = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        values, reward, _, _, info = self._env.step(clipped)
        success = bool(info["success"])
        return split(values), float(success), success, False, self._info(success, float(reward))

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene, (480, 480, 3), or nothing without a render mode."""
        return None if self.render_mode is None else self._env.render()[::-1].copy()

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _info(self, success: bool, reward: float) -> dict[str, Any]:
        state = np.concatenate([self._env._last_rand_vec, self._state.read()])
        return {"state": state, "is_success": success, "dense_reward": reward}

    def _set_state(self, values: Any) -> NDArray[np.float64]:
        env = self._env
        drawn, physics = self._state.split(values, env._random_reset_space.low.size)
        env._last_rand_vec, env._freeze_rand_vec = drawn, True
        env.reset()  # scene, goal, and what rewards remember of the start
        self._state.write(physics)
        found: NDArray[np.float64] = env._get_obs()
        return found


class Demonstrator:
    """Meta-World's scripted policy for a task, with speed and noise of each episode's own.

    Args:
        task: Meta-World's name without its version.
        noise: largest deviation of the noise on the hand's moves, of an episode that draws it.
        slowest: smallest share of the full speed that an episode draws.

    Raises:
        PcmError: Meta-World is not installed.
    """

    def __init__(self, task: str, noise: float = 0.1, slowest: float = 0.8) -> None:
        import_metaworld()
        policies = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
        self.task, self.noise, self.slowest = task, noise, slowest
        self._policy: Any = policies[f"{task}-v3"]()
        self.reset(np.random.default_rng(0))

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the file's record of how it was made."""
        return {"expert": "metaworld", "noise": self.noise, "slowest": self.slowest}

    def reset(self, generator: np.random.Generator) -> None:
        """Draw an episode's speed and strength of noise."""
        self._random = generator
        self._speed = float(generator.uniform(self.slowest, 1.0))
        self._strength = float(generator.uniform(0.0, self.noise))
        self._drift = np.zeros(3)
        self._before: NDArray[np.float64] | None = None

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the next action."""
        now = np.concatenate([observation["proprio"], observation["object"]]).astype(np.float64)
        before = now if self._before is None else self._before
        self._before = now
        with warnings.catch_warnings():  # that moves may be clipped, at every step
            warnings.simplefilter("ignore")
            action = self._policy.get_action(np.concatenate([now, before, observation["goal"]]))
        # noise with a memory of about five steps moves the hand; white noise averages out
        self._drift = 0.8 * self._drift + 0.6 * self._strength * self._random.normal(size=3)
        move = np.clip(action[:3], -1.0, 1.0) * self._speed + self._drift
        found: NDArray[np.float32] = np.clip([*move, action[3]], -1.0, 1.0).astype(np.float32)
        return found
