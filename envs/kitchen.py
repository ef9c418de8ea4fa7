"""Franka Kitchen (Gupta et al. 2019; gymnasium-robotics' FrankaKitchen) as an environment.

Lengths are metres, angles radians; one step is 80 ms.
"""

import contextlib
import importlib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from pcm_policy.envs.mujoco_state import MujocoState, finite
from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

Observation = dict[str, NDArray[np.float32]]

TASKS = ("microwave", "kettle", "light switch", "slide cabinet")
"""Those of D4RL's ``complete`` demonstrations."""
WORDS = 8
"""Numbers of 32 bits that a generator's state is."""


def generator_words(generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the state of a PCG64 generator as numbers of 32 bits, (8,)."""
    found: Any = generator.bit_generator.state["state"]
    both = found["state"] | (found["inc"] << 128)
    return np.array([(both >> (32 * k)) & 0xFFFFFFFF for k in range(WORDS)], np.float64)


def set_generator(generator: np.random.Generator, words: NDArray[np.float64]) -> None:
    """Put a PCG64 generator into the state that ``generator_words`` returned."""
    both = sum(int(word) << (32 * k) for k, word in enumerate(words))
    state = {"state": both & (2**128 - 1), "inc": both >> 128}
    kept = {"bit_generator": "PCG64", "has_uint32": 0, "uinteger": 0}
    generator.bit_generator.state = {**kept, "state": state}


class Kitchen(gym.Env[Observation, NDArray[np.float32]]):
    """A Franka arm in a kitchen, with several things to do in any order.

    Observation space: dict of ``observation`` (59,), as D4RL's demonstrations have it: 9 joints of
    the arm and their velocities, 21 positions and 20 velocities of burners, switch, cabinets,
    microwave and kettle, all with gymnasium-robotics' own noise.

    Action space: (9,) in [-1, 1], velocities of the joints in units of 2 rad/s. Actions beyond are
    clipped.

    Rewards: the share of the tasks that the episode has done by now, so that an episode's score is
    the share that it did (times four, ``p1`` to ``p4`` of the literature together).

    Starting state: always the same but for the noise, which ``reset(seed=s)`` draws.
    ``reset(options={"state": info["state"]})`` goes back to a recorded state, exactly, with the
    noise that followed it.

    Episode end: ``terminated`` when all tasks are done; 280 steps (by the registration), as in
    gymnasium-robotics.

    Info: ``state``: which tasks are done, the generator of the noise before it was drawn (8), then
    MuJoCo's state; ``is_success``.

    Args:
        tasks: what is to be done: microwave, kettle, light switch, slide cabinet, hinge cabinet,
            bottom burner, top burner.
        render_mode: None or "rgb_array".

    Raises:
        PcmError: gymnasium-robotics is not installed, or a task or the render mode is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012 (gymnasium's)

    def __init__(self, tasks: Sequence[str] = TASKS, render_mode: str | None = None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        with contextlib.redirect_stderr(io.StringIO()):  # of a change of Adroit's reward
            require("gymnasium_robotics", "Franka Kitchen", "adroit")
        made = importlib.import_module("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
        known = list(made.OBS_ELEMENT_GOALS)
        named = isinstance(tasks, Sequence) and not isinstance(tasks, str)
        if not named or not tasks or len({t for t in known if t in tasks}) < len(tasks):
            raise PcmError(f"tasks are some of {', '.join(known)}, each once, not {tasks}")
        self.tasks = tuple(tasks)
        self._env: Any = made.KitchenEnv(tasks_to_complete=list(tasks), render_mode=render_mode)
        self._robot: Any = self._env.robot_env
        self._state = MujocoState(self._env.model, self._env.data)
        box = gym.spaces.Box(-np.inf, np.inf, (59,), np.float32)
        self.observation_space: gym.spaces.Space[Any] = gym.spaces.Dict({"observation": box})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for ``options``.

        Raises:
            PcmError: ``options["state"]`` is not a state of this task.
        """
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        self._noise = generator_words(seeding.np_random(start)[0])
        values, _ = self._env.reset(seed=start)
        if options is not None and "state" in options:
            values = self._go_to(options["state"])
        return self._seen(values), self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the joints for 80 ms.

        Raises:
            PcmError: the action is not nine finite numbers.
        """
        self._noise = generator_words(self._robot.np_random)
        values, _, success, _, _ = self._env.step(finite("an action", action, 9))
        return self._seen(values), self._done().mean(), bool(success), False, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene, (480, 480, 3), or nothing without a render mode."""
        found: NDArray[np.uint8] | None = self._env.render() if self.render_mode else None
        return found

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _done(self) -> NDArray[np.float64]:
        """Return 1 for each task that the episode has done, 0 for each that it has not."""
        return np.array([task in self._env.episode_task_completions for task in self.tasks], float)

    def _seen(self, values: dict[str, Any]) -> Observation:
        return {"observation": values["observation"].astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        done = self._done()
        state = np.concatenate([done, self._noise, self._state.read()])
        return {"state": state, "is_success": bool(done.all())}

    def _go_to(self, wanted: Any) -> dict[str, Any]:
        """Go to a recorded state and observe it with the noise that it was observed with."""
        count = len(self.tasks)
        before, physics = self._state.split(wanted, count + WORDS)
        done = [task for task, flag in zip(self.tasks, before[:count], strict=True) if flag]
        self._env.episode_task_completions[:] = done
        self._env.tasks_to_complete = set(self.tasks) - set(done)
        self._state.write(physics)
        self._noise = before[count:]
        set_generator(self._robot.np_random, self._noise)
        found: dict[str, Any] = self._env._get_obs(self._robot._get_obs())
        return found
