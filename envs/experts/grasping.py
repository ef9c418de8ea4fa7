"""What the scripted experts of robosuite's tasks share: the scene, the hand, the noise.

Lengths are metres, angles radians. The hand is a Panda's; actions are deltas of OSC_POSE, in which
1 is 5 cm or half a radian of goal ahead of the present pose. (At 20 Hz a goal that stays 5 cm ahead
moves the hand by about 1.5 cm a step.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.rotations import matrix_to_axis_angle

Floats = NDArray[np.float64]
Observation = Mapping[str, NDArray[Any]]

POSITION_UNIT, ROTATION_UNIT = 0.05, 0.5
OPEN, CLOSED = -1.0, 1.0
DOWN = np.diag([1.0, -1.0, -1.0])  # the hand at rest: its z axis points down, its fingers along y


@dataclass(frozen=True)
class Scene:
    """Hand and object, as an observation shows them.

    Attributes:
        hand: position of the point between the finger tips, (3,).
        turn: rotation matrix of the hand, (3, 3).
        width: distance of the fingers.
        thing: position of the object, (3,).
        yaw: angle of the object's x axis in the table's plane.
    """

    hand: Floats
    turn: Floats
    width: float
    thing: Floats
    yaw: float

    @classmethod
    def read(cls, observation: Observation, at: int = 0) -> "Scene":
        """Read robomimic's low-dimensional entries; in its own the object's pose begins ``at``."""
        thing = np.asarray(observation["object"], np.float64)[at:]
        fingers = np.asarray(observation["robot0_gripper_qpos"], np.float64)
        turn = quaternion_to_matrix(thing[3:7])
        return cls(
            np.asarray(observation["robot0_eef_pos"], np.float64),
            quaternion_to_matrix(observation["robot0_eef_quat"]),
            float(fingers[0] - fingers[1]),
            thing[:3],
            float(np.arctan2(turn[1, 0], turn[0, 0])),
        )

    @property
    def hand_yaw(self) -> float:
        """Angle of the hand's x axis, 0 at rest."""
        return float(np.arctan2(self.turn[1, 0], self.turn[0, 0]))


def quaternion_to_matrix(quaternion: NDArray[Any]) -> Floats:
    """Return the rotation matrix of a unit quaternion x, y, z, w."""
    x, y, z, w = np.asarray(quaternion, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def about_z(angle: float) -> Floats:
    """Return the rotation matrix about the vertical."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def above(point: Floats, height: float) -> Floats:
    """Return the point so far above another one."""
    return np.asarray(point + np.array([0.0, 0.0, height]))


def nearest(angle: float, period: float) -> float:
    """Return the angle nearest to 0 that differs from ``angle`` by multiples of ``period``."""
    return float((angle + period / 2) % period - period / 2)


class Hand:
    """Moves towards poses with an episode's own speed, offset and noise.

    Args:
        generator: what they are drawn from; the noise of every step as well.
        noise: largest standard deviation of the noise on goals that an episode draws.
        slowest: smallest share of full speed that an episode draws.
    """

    def __init__(self, generator: np.random.Generator, noise: float, slowest: float) -> None:
        self._random = generator
        self.speed = float(generator.uniform(slowest, 1.0))
        self._strength = float(generator.uniform(0.0, noise))
        self._drift = np.zeros(3)

    def towards(
        self, scene: Scene, position: Floats, yaw: float, grip: float, calm: float = 1.0
    ) -> NDArray[np.float32]:
        """Return the action that brings the hand nearer to a pose, pointing down.

        Args:
            scene: where everything is.
            position: of the point between the finger tips.
            yaw: of the hand.
            grip: OPEN or CLOSED.
            calm: share of the noise that is let through.
        """
        # noise with a memory of about four steps bends the path; white noise would average out
        self._drift = 0.75 * self._drift + 0.66 * self._strength * self._random.normal(size=3)
        ahead = 1.3 * (position - scene.hand) + calm * self._drift
        ahead *= min(1.0, self.speed * POSITION_UNIT / max(float(np.linalg.norm(ahead)), 1e-9))
        turn = matrix_to_axis_angle(about_z(yaw) @ DOWN @ scene.turn.T)
        turn *= min(1.0, 0.5 * ROTATION_UNIT / max(float(np.linalg.norm(turn)), 1e-9))
        action = np.concatenate([ahead / POSITION_UNIT, turn / ROTATION_UNIT, [grip]])
        clipped: NDArray[np.float32] = np.clip(action, -1.0, 1.0).astype(np.float32)
        return clipped
