"""The two tasks of ALOHA's simulation (Zhao et al. 2023; gym-aloha) as environments.

Lengths are metres, angles radians; one step is 20 ms. gym-aloha's models, starts, rewards and
normalised grippers are used; its environment, which draws three pictures of 480 x 640 at every step
and has no observation without pictures, is not.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.mujoco_state import MujocoState, finite
from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.envs.seeds import word
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

Observation = dict[str, NDArray[Any]]

TASKS: Mapping[str, tuple[str, str]] = {
    "transfer_cube": ("TransferCubeTask", "sample_box_pose"),
    "insertion": ("InsertionTask", "sample_insertion_pose"),
}
"""gym-aloha's class of each task, and its function that draws a start from a seed."""
SUCCESS = 4
"""gym-aloha's reward of a success."""
SUBSTEPS = 10
"""Of 2 ms, in a step."""
ROBOT = 16
"""Positions of the two arms in the simulation; those of the objects follow."""


def import_aloha(module: str = "gym_aloha.tasks.sim") -> Any:
    """Import a module of gym-aloha.

    Raises:
        PcmError: it is not installed; the message holds the line that installs it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing display, where nothing is drawn on one
        return require(module, "ALOHA's simulation", "aloha")


class Aloha(gym.Env[Observation, NDArray[np.float32]]):
    """Two arms of six joints and a gripper each, and what lies on the table between them.

    Observation space: dict of ``agent_pos`` (14,), for the left arm and then for the right one six
    joint angles and how far the gripper is open (0 to 1); ``env_state`` (7,) for each object,
    position and quaternion w, x, y, z; and for each camera its picture, (height, width, 3) uint8.

    Action space: (14,), where joints and grippers go, in the units of ``agent_pos``. MuJoCo clips
    what is beyond a joint's range. (gym-aloha declares [-1, 1], which its own start leaves.)

    Rewards: 1 on success, else 0: gym-aloha's reward is 4. For the cube, the left gripper touches
    it and it is off the table; for the peg, it is in the socket. gym-aloha's reward, 0 to 4, is
    ``info["dense_reward"]``.

    Starting state: ``reset(seed=s)`` draws where the objects lie, as gym-aloha does for that seed.
    ``reset(options={"state": info["state"]})`` goes back to a recorded state, exactly.

    Episode end: ``terminated`` on success; ``terminated`` without it, at the state before, where
    actions shake the arms so much that MuJoCo's integration fails; 300 steps (by the registration),
    as in gym-aloha.

    Info: ``state``: MuJoCo's (time, positions, velocities, warm start, controls); ``is_success``;
    ``dense_reward``.

    Attributes:
        draws: whether cameras are drawn; their images are black where not.

    Args:
        task: ``transfer_cube`` or ``insertion``.
        cameras: names of cameras, such as ``top``; also angle, front_close, left_wrist,
            right_wrist, left_pillar and right_pillar.
        camera_size: their height and width in pixels.
        render_mode: None or "rgb_array".

    Raises:
        PcmError: gym-aloha is not installed, the task, a camera or the render mode is unknown, or
            a camera's size is none.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = (),
        camera_size: Sequence[int] = (96, 128),
        render_mode: str | None = None,
    ) -> None:
        self.render_mode, self.draws = checked_render_mode(render_mode), True
        if task not in TASKS:
            raise PcmError(f"task is {' or '.join(TASKS)}, not {task!r}")
        self._sim = import_aloha()
        made, drawn = TASKS[task]
        self._task: Any = getattr(self._sim, made)()
        self._draw: Any = getattr(import_aloha("gym_aloha.utils"), drawn)
        scene = import_aloha("gym_aloha.constants").ASSETS_DIR / f"bimanual_viperx_{task}.xml"
        self._physics: Any = import_aloha("dm_control.mujoco").Physics.from_xml_path(str(scene))
        model = self._physics.model.ptr
        self._state = MujocoState(model, self._physics.data.ptr)
        self._unstable = import_aloha("dm_control.rl.control").PhysicsError
        self._cameras, self._size = self._checked(cameras, camera_size)
        shapes = {"agent_pos": (14,), "env_state": (model.nq - ROBOT,)}
        boxes: dict[str, gym.spaces.Space[Any]] = {
            name: gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
            for name, shape in shapes.items()
        }
        for camera in self._cameras:
            boxes[camera] = gym.spaces.Box(0, 255, (*self._size, 3), np.uint8)
        self.observation_space: gym.spaces.Space[Any] = gym.spaces.Dict(boxes)
        arm = [*model.jnt_range[:6], [0.0, 1.0]]
        low, high = np.array([*arm, *arm], np.float32).T
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for ``options``.

        Raises:
            PcmError: ``options["state"]`` is not a state of this task.
        """
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        self._sim.BOX_POSE[0] = np.concatenate([np.ravel(pose) for pose in self._poses(start)])
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        if options is not None and "state" in options:
            self._state.write(self._state.split(options["state"], 0)[1])
        observation, _, _, _, info = self._now()
        return observation, info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move towards an action for 20 ms.

        Raises:
            PcmError: the action is not 14 finite numbers.
        """
        self._task.before_step(finite("an action", action, 14), self._physics)
        try:
            self._physics.step(SUBSTEPS)
        except self._unstable:
            return self._last[0], 0.0, True, False, {**self._last[1], "is_success": False}
        return self._now()

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene from the front, (480, 640, 3), or nothing without a render mode."""
        return None if self.render_mode is None else self._picture("angle", (480, 640))

    def close(self) -> None:
        """Release the simulator."""
        self._physics.free()

    def _poses(self, seed: int) -> tuple[NDArray[np.float64], ...]:
        found = self._draw(word(seed))
        return found if isinstance(found, tuple) else (found,)

    def _checked(
        self, cameras: Sequence[str], size: Sequence[int]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return names and size of cameras, if they are the scene's and can be drawn."""
        model = self._physics.model
        known = [model.id2name(i, "camera") for i in range(model.ncam)]
        if isinstance(cameras, str) or len({c for c in known if c in cameras}) < len(cameras):
            raise PcmError(f"cameras are some of {', '.join(known)}, each once, not {cameras}")
        whole = not isinstance(size, str | int | float) and all(type(n) is int for n in size)
        if not whole or len(size) != 2 or min(size) < 1 or size[0] > 480 or size[1] > 640:
            raise PcmError(f"camera_size is [height, width], at most [480, 640], not {size}")
        return tuple(cameras), tuple(size)

    def _picture(self, camera: str, size: Sequence[int]) -> NDArray[np.uint8]:
        """Draw what a camera sees, ``(height, width, 3)``.

        Raises:
            PcmError: nothing can be drawn here.
        """
        try:
            found: NDArray[np.uint8] = self._physics.render(*size, camera_id=camera)
        except Exception as error:  # whatever a platform's OpenGL raises
            raise PcmError(
                f"camera {camera}: nothing can be drawn ({error}): set MUJOCO_GL=egl, which needs "
                "libegl1, or MUJOCO_GL=osmesa"
            ) from error
        return found

    def _seen(self) -> Observation:
        found: Observation = {
            "agent_pos": self._task.get_qpos(self._physics).astype(np.float32),
            "env_state": self._task.get_env_state(self._physics).astype(np.float32),
        }
        if not self.draws:
            return found | {name: np.zeros((*self._size, 3), np.uint8) for name in self._cameras}
        return found | {name: self._picture(name, self._size) for name in self._cameras}

    def _now(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Return what a step returns of the simulation as it is."""
        reward = int(self._task.get_reward(self._physics))
        success = reward == SUCCESS
        told = {"state": self._state.read(), "is_success": success, "dense_reward": float(reward)}
        self._last = self._seen(), told
        return self._last[0], float(success), success, False, told
