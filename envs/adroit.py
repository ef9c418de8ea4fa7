"""Adroit's door (Rajeswaran et al. 2018; gymnasium-robotics' AdroitHandDoor) as an environment.

Lengths are metres, angles radians; one step is 10 ms.
"""

import contextlib
import importlib
import io
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.mujoco_state import MujocoState
from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.optional import require

Observation = dict[str, NDArray[np.float32]]


class AdroitDoor(gym.Env[Observation, NDArray[np.float32]]):
    """A hand of 24 joints on an arm of 4 turns a latch and opens a door.

    Observation space: dict of ``observation`` (39,), as the demonstrations have it: 27 joints,
    latch, hinge, palm, handle, the way from the handle to the palm, 1 where the door is open by
    more than 1 rad and -1 elsewhere.

    Action space: (28,) in [-1, 1], where each joint goes, in halves of its range from the middle
    of it. Actions beyond are clipped, as the demonstrations' were.

    Rewards: 1 on success, else 0: the hinge is at 1.35 rad or further, gymnasium-robotics'
    own ``success``. Its dense reward is ``info["dense_reward"]``.

    Starting state: ``reset(seed=s)`` draws the place of the door, a function of s alone; all
    joints are at zero. ``reset(options={"state": info["state"]})`` goes back to a recorded state,
    exactly; ``options={"initial_state_dict": ...}`` is gymnasium-robotics' own.

    Episode end: ``terminated`` on success; 300 steps (by the registration), as long as the
    longest demonstration.

    Info: ``state``: places of the door (3), and of palm and handle as observed (6; after a step
    they are 2 ms old), then MuJoCo's state; ``is_success``; ``dense_reward``.

    Args:
        render_mode: None or "rgb_array".

    Raises:
        PcmError: gymnasium-robotics is not installed, or the render mode is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012 (gymnasium's)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        with contextlib.redirect_stderr(io.StringIO()):  # of a change of the dense reward
            require("gymnasium_robotics", "Adroit's door", "adroit")
        made = importlib.import_module("gymnasium_robotics.envs.adroit_hand.adroit_door")
        self._env: Any = made.AdroitHandDoorEnv(render_mode=render_mode)
        self._state = MujocoState(self._env.model, self._env.data)
        self._sites = [self._env.grasp_site_id, self._env.handle_site_id]
        box = gym.spaces.Box(-np.inf, np.inf, self._env.observation_space.shape, np.float32)
        self.observation_space: gym.spaces.Space[Any] = gym.spaces.Dict({"observation": box})
        self.action_space = self._env.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for ``options``.

        Raises:
            PcmError: ``options["state"]`` is not a state of this task.
        """
        super().reset(seed=seed)
        values, _ = self._env.reset(seed=seed, options=options)
        if options is not None and "state" in options:
            seen, physics = self._state.split(options["state"], 9)
            self._env.model.body_pos[self._env.door_body_id] = seen[:3]
            self._state.write(physics)
            self._env.data.site_xpos[self._sites] = seen[3:].reshape(2, 3)
            values = self._env._get_obs()
        return self._seen(values), self._info(False, 0.0)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move towards an action for 10 ms."""
        values, reward, _, _, info = self._env.step(np.asarray(action, np.float32))
        success = bool(info["success"])
        told = self._info(success, float(reward))
        return self._seen(values), float(success), success, False, told

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene, (480, 480, 3), or nothing without a render mode."""
        found: NDArray[np.uint8] | None = self._env.render()
        return found

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _seen(self, values: NDArray[np.float64]) -> Observation:
        return {"observation": values.astype(np.float32)}

    def _info(self, success: bool, reward: float) -> dict[str, Any]:
        place = self._env.model.body_pos[self._env.door_body_id]
        sites = self._env.data.site_xpos[self._sites].ravel()
        state = np.concatenate([place, sites, self._state.read()])
        return {"state": state, "is_success": success, "dense_reward": reward}
