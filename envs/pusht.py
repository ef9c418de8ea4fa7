"""Push-T with the observations of Diffusion Policy (Chi et al. 2023), simulated by gym-pusht.

Lengths are pixels of a 512 x 512 table, y down; angles are radians. One step is 0.1 s.
"""

import os
from functools import cache
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.envs.seeds import word
from pcm_policy.errors import PcmError
from pcm_policy.fields import maps

Obs = TypeVar("Obs")
Image = NDArray[np.uint8]

KEYPOINTS = np.array(
    [
        [9.26979, 90.04097],
        [-60.98347, -1.18673],
        [60.91276, -1.39336],
        [-0.2705, 25.54363],
        [-14.06493, 122.81585],
        [39.00274, 32.8574],
        [-39.96641, 32.72966],
        [-16.82434, 62.86318],
        [23.54146, -1.70029],
    ]
)
"""Diffusion Policy's nine keypoints in the frame of the T block, (9, 2), in pixels.

Fitted to the recorded demonstrations, in which the nine points are rigid to 3e-5 px.
"""

OUTLINE = np.array(
    [[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]],
    np.float64,
)
"""Corners of the T in its own frame, (8, 2), in pixels."""

GOAL_POSE = (256.0, 256.0, np.pi / 4)
SUCCESS_COVERAGE = 0.95
RENDER_SIZE = 512  # pixels, the simulator's own canvas
IMAGE_SIZE = 96


def keypoints(block_pose: ArrayLike) -> NDArray[np.float64]:
    """Place the nine keypoints on the block.

    Args:
        block_pose: Block x, y (px) and angle (rad), (..., 3).

    Returns:
        Keypoints in table coordinates, (..., 9, 2), in pixels.
    """
    return _place(KEYPOINTS, block_pose)


def _place(points: NDArray[np.float64], pose: ArrayLike) -> NDArray[np.float64]:
    """Move points of the block's frame, (n, 2), to poses, (..., 3)."""
    pose = np.asarray(pose, np.float64)
    cos, sin = np.cos(pose[..., 2:]), np.sin(pose[..., 2:])
    x, y = points.T
    return np.stack(
        [cos * x - sin * y + pose[..., :1], sin * x + cos * y + pose[..., 1:2]], axis=-1
    )


@maps("keypoint", "state[0:2]", action="action")
def mirror(
    observation: NDArray[np.float32], action: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reflect situations about the goal's axis of symmetry, which is a diagonal of the table.

    The T, its goal and the table (to one pixel at the walls) are mapped onto themselves, so that a
    demonstration's reflection is a demonstration.

    Args:
        observation: Rows of ``PushTKeypoints``, (..., 20), in pixels.
        action: (..., 2), in pixels.

    Returns:
        Both, reflected.

    Raises:
        PcmError: Rows of another width.
    """
    if observation.shape[-1] != 20 or action.shape[-1] != 2:
        raise PcmError(
            f"Push-T's mirror image takes 20 numbers an observation and 2 an action, not "
            f"{observation.shape[-1]} and {action.shape[-1]}"
        )
    points = observation[..., :18].reshape(*observation.shape[:-1], 9, 2).astype(np.float64)
    x, y, angle = np.moveaxis(pose(points), -1, 0)
    side = GOAL_POSE[0] + GOAL_POSE[1]
    block = keypoints(np.stack([side - y, side - x, np.pi / 2 - angle], axis=-1))
    seen = np.concatenate([block.reshape(*x.shape, 18), side - observation[..., :17:-1]], axis=-1)
    return seen.astype(np.float32), (side - action[..., ::-1]).astype(np.float32)


def pose(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the block's pose to its keypoints, the inverse of :func:`keypoints`.

    Args:
        points: (..., 9, 2), in pixels.

    Returns:
        Block x, y (px) and angle (rad), (..., 3), by least squares.
    """
    centre, local = points.mean(axis=-2, keepdims=True), KEYPOINTS - KEYPOINTS.mean(axis=0)
    moved = points - centre
    along = (moved * local).sum(axis=(-2, -1))
    across = (local[:, 0] * moved[..., 1] - local[:, 1] * moved[..., 0]).sum(axis=-1)
    angle = np.arctan2(across, along)
    origin = _place(KEYPOINTS.mean(axis=0)[None], np.stack([0 * angle, 0 * angle, angle], -1))
    return np.concatenate([(centre - origin)[..., 0, :], angle[..., None]], axis=-1)


def coverage(block_pose: ArrayLike) -> float:
    """Compute the share of the goal's area that the block covers.

    gym-pusht has the same number up to its last bits, which depend on memory addresses.

    Args:
        block_pose: Block x, y (px) and angle (rad), (3,).

    Returns:
        Covered share, 0...1.
    """
    import shapely

    block = shapely.Polygon(_place(OUTLINE, block_pose))
    return float(_goal().intersection(block).area / _goal().area)


@cache
def _goal() -> Any:
    import shapely

    return shapely.Polygon(_place(OUTLINE, GOAL_POSE))


def _make_simulator() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        from gym_pusht.envs import PushTEnv
    except ImportError as error:
        raise PcmError(
            f"Push-T needs gym-pusht ({error}): pip install 'pcm_policy[pusht]'"
        ) from error

    class Simulator(PushTEnv):  # type: ignore[misc]
        def _handle_collision(self, *_: Any) -> None:
            """Do not count contacts: nobody asks, and it takes a fifth of the time."""

        def _get_coverage(self) -> float:
            return coverage(self.get_obs()[2:])

    return Simulator(
        obs_type="state",
        observation_width=IMAGE_SIZE,
        observation_height=IMAGE_SIZE,
        visualization_width=RENDER_SIZE,
        visualization_height=RENDER_SIZE,
    )


class _PushT(gym.Env[Obs, NDArray[np.float32]], Generic[Obs]):
    """Push the T block onto its goal pose (256, 256, pi/4) with a round agent.

    Action space: target position of the agent, (2,), 0...512 px, tracked by a PD controller.

    Rewards: min(1, coverage / 0.95), coverage being the covered share of the goal area.

    Starting state: ``reset(seed=s)`` gives the state of Diffusion Policy's test episode s, a
    function of s alone. ``reset(options={"state": [agent x, y, block x, y, angle]})`` starts at
    rest in exactly that state, so that recorded states are valid starts.

    Episode end: ``terminated`` when coverage exceeds 0.95; 300 steps (by the registration).

    Info: ``state`` (5,), the order of ``options``, angle in [0, 2 pi); ``coverage``;
    ``is_success``.

    Args:
        render_mode: None or "rgb_array": ``render`` draws 512 x 512 frames with the last action.

    Raises:
        PcmError: gym-pusht is not installed, or the render mode is unknown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.action_space = gym.spaces.Box(0.0, 512.0, (2,), np.float32)
        self._simulator = _make_simulator()

    def _observe(self, state: NDArray[np.float64]) -> Obs:
        raise NotImplementedError

    def _info(self, state: NDArray[np.float64], covered: float) -> dict[str, Any]:
        success = covered > SUCCESS_COVERAGE
        return {"state": state, "coverage": covered, "is_success": success}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; see the class for ``options["state"]``.

        Args:
            seed: Names the starting state; None draws a new one.
            options: ``{"state": ...}`` sets the state (5,) instead.

        Returns:
            The observation and the info of the starting state.

        Raises:
            PcmError: ``options["state"]`` is not five finite numbers.
        """
        super().reset(seed=seed)
        if options is not None and "state" in options:
            self._set_state(options["state"])
        else:
            self._draw_state(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._simulator._last_action = None
        state = self._simulator.get_obs()
        return self._observe(state), self._info(state, coverage(state[2:]))

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Move towards the target ``action``, (2,), for 0.1 s."""
        target = np.asarray(action, np.float64)
        state, reward, _, _, info = self._simulator.step(target)
        info = self._info(state, info["coverage"])
        return self._observe(state), float(reward), info["is_success"], False, info

    def render(self) -> Image | None:
        """Draw the table, (512, 512, 3), or nothing without a render mode."""
        return None if self.render_mode is None else self._simulator.render()

    def close(self) -> None:
        """Release the simulator."""
        self._simulator.close()

    def _draw_state(self, seed: int) -> None:
        """Start as Diffusion Policy does: its draws, its order, and one step of physics.

        The angle is set after the position, about the centre of mass, which shifts the block.
        """
        random = np.random.RandomState(word(seed))
        agent = random.randint(50, 450), random.randint(50, 450)
        block = random.randint(100, 400), random.randint(100, 400)
        angle = random.randn() * 2 * np.pi - np.pi
        self._simulator.reset(options={"reset_to_state": [*agent, *block, angle]})

    def _set_state(self, values: Any) -> None:
        state = np.asarray(values, np.float64)
        if state.shape != (5,) or not np.isfinite(state).all():
            raise PcmError(f"options['state'] is five finite numbers, not {values!r}")
        simulator = self._simulator
        simulator._setup()
        simulator.agent.position = state[:2].tolist()
        simulator.block.angle = float(state[4])  # first: turning moves the position
        simulator.block.position = state[2:4].tolist()
        # Finds the contacts and moves nothing: without it, recorded actions replay less well.
        simulator.space.step(simulator.dt)


class PushTKeypoints(_PushT[NDArray[np.float32]]):
    """Push-T seen as Diffusion Policy's low-dimensional observation.

    Observation space: (20,) float32, nine keypoints of the block (x, y interleaved), then the
    agent's x, y, all in pixels. The rest is described at ``_PushT``.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        # Points of a block that leans over the border lie outside the table.
        self.observation_space = gym.spaces.Box(-512.0, 1024.0, (20,), np.float32)

    def _observe(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.concatenate([keypoints(state[2:]).ravel(), state[:2]], dtype=np.float32)

    def entries(
        self, observations: NDArray[np.float32], states: NDArray[np.float64]
    ) -> dict[str, NDArray[Any]]:
        """Return what demonstrations hold: ``keypoint`` (n, 9, 2) and ``state`` (n, 5)."""
        points = observations[:, :18].reshape(-1, 9, 2)
        return {"keypoint": points, "state": states.astype(np.float32)}


class PushTImage(_PushT[dict[str, Any]]):
    """Push-T seen by a camera from above.

    Observation space: dict of ``image`` (96, 96, 3) uint8, without the action marker, and
    ``agent_pos`` (2,) float32 in pixels. The rest is described at ``_PushT``.

    Attributes:
        draws: whether the camera is drawn; its images are black where not.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.draws = True
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
                "agent_pos": gym.spaces.Box(-512.0, 1024.0, (2,), np.float32),
            }
        )

    def _observe(self, state: NDArray[np.float64]) -> dict[str, Any]:
        black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        image = self._simulator._render() if self.draws else black
        return {"image": image, "agent_pos": state[:2].astype(np.float32)}
