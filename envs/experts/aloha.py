"""A scripted expert of ALOHA's cube: the right arm lifts it, the left arm takes it.

It sees what a policy sees, joints and the cube's pose, and nothing else. Lengths are metres, angles
radians. Each episode has speeds, an approach, a place to meet and noise of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHOULDER = 0.12705
"""Height of the shoulder's axis."""
FINGERS = 0.145
"""From the hand's own origin to the point between the finger tips."""
UPPER, FOREARM, HAND = float(np.hypot(0.05955, 0.3)), 0.3, 0.069744 + FINGERS
"""Shoulder to elbow to wrist to the point between the finger tips."""
BENT = float(np.arctan2(0.3, 0.05955))
"""Elevation of the upper arm where its joint is at zero."""
OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True)
class Arm:
    """A ViperX arm that works in the vertical plane through its base and its target.

    Attributes:
        base: x and y of the base, (2,).
        way: 1 where it faces along x, -1 where it faces against x.
    """

    base: tuple[float, float]
    way: float

    def joints(self, point: Floats, pitch: float, roll: float) -> Floats:
        """Return the six joint angles that bring the finger tips to a point.

        Args:
            point: (3,); one out of reach is replaced by the nearest that is within.
            pitch: of the hand, downward.
            roll: of the hand about its own axis.
        """
        aside = self.way * (point[:2] - np.array(self.base))
        reach = float(np.hypot(*aside)) - HAND * np.cos(pitch)
        height = point[2] - SHOULDER + HAND * np.sin(pitch)
        far = float(np.clip(np.hypot(reach, height), 0.05, UPPER + FOREARM - 1e-3))
        cosine = (UPPER**2 + far**2 - FOREARM**2) / (2 * UPPER * far)
        first = np.arctan2(height, reach) + np.arccos(np.clip(cosine, -1.0, 1.0))
        wrist = far * np.array([reach, height]) / np.hypot(reach, height)
        rest = wrist - UPPER * np.array([np.cos(first), np.sin(first)])
        shoulder = BENT - first
        elbow = -np.arctan2(rest[1], rest[0]) - shoulder
        waist = np.arctan2(aside[1], aside[0])
        return np.array([waist, shoulder, elbow, 0.0, pitch - shoulder - elbow, roll])

    def tips(self, joints: Floats) -> tuple[Floats, float]:
        """Return the point between the finger tips, and the hand's pitch, of joint angles.

        The forearm is taken as not rolled, as ``joints`` leaves it.
        """
        first, second = BENT - joints[1], -(joints[1] + joints[2])
        pitch = float(joints[1] + joints[2] + joints[4])
        reach = UPPER * np.cos(first) + FOREARM * np.cos(second) + HAND * np.cos(pitch)
        height = UPPER * np.sin(first) + FOREARM * np.sin(second) - HAND * np.sin(pitch)
        ahead = self.way * reach * np.array([np.cos(joints[0]), np.sin(joints[0])])
        return np.append(np.array(self.base) + ahead, SHOULDER + height), pitch


LEFT, RIGHT = Arm((-0.469, 0.5), 1.0), Arm((0.469, 0.5), -1.0)


class Goal:
    """Where a hand is sent: a pose that moves towards another one, at an episode's own speed.

    Args:
        arm: which arm.
        roll: of its hand, throughout.
        speed: metres a step.
    """

    def __init__(self, arm: Arm, roll: float, speed: float) -> None:
        self.arm, self.roll, self.speed = arm, roll, speed
        self._point: Floats | None = None
        self._pitch = 0.0
        self._turned = 0.0

    def towards(self, now: Floats, target: Floats, pitch: float, noise: Floats) -> Floats:
        """Return the next joint angles, (6,).

        Args:
            now: the arm's joint angles; the goal begins where they are.
            target: for the finger tips.
            pitch: for the hand.
            noise: added to the goal for this step alone.
        """
        if self._point is None:
            self._point, self._pitch = self.arm.tips(now)
            self._turned = float(now[5])
        way = target - self._point
        self._point = self._point + way * min(
            1.0, self.speed / max(float(np.linalg.norm(way)), 1e-9)
        )
        self._pitch += float(np.clip(pitch - self._pitch, -0.04, 0.04))
        self._turned += float(np.clip(self.roll - self._turned, -0.06, 0.06))
        return self.arm.joints(self._point + noise, self._pitch, self._turned)


class TransferCube:
    """Grasp the cube with the right hand, lift it, and take hold of it with the left hand.

    Args:
        noise: largest standard deviation (m) of the noise on the hands' goals.
        slowest: smallest share of full speed.
    """

    full_speed = 0.012
    near = 0.012
    """Distance of the finger tips from the cube at which a hand closes."""
    closing = 8
    """Steps that closing takes."""
    clear = 0.06
    """Height of the cube above which the right hand has it."""

    def __init__(self, noise: float = 0.006, slowest: float = 0.7) -> None:
        self.noise, self.slowest = noise, slowest
        self.reset(np.random.default_rng(0))

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the record of how demonstrations were made."""
        return {"expert": type(self).__name__, "noise": self.noise, "slowest": self.slowest}

    def reset(self, generator: np.random.Generator) -> None:
        """Draw an episode's speeds, approach, place to meet and strength of noise."""
        speeds = self.full_speed * generator.uniform(self.slowest, 1.0, 2)
        self._left = Goal(LEFT, np.pi / 2, speeds[0])  # its fingers above and below the cube
        self._right = Goal(RIGHT, 0.0, speeds[1])
        self._over = float(generator.uniform(0.05, 0.09))
        self._pitch = float(generator.uniform(0.9, 1.1))
        self._meet = np.array([0.0, 0.5, 0.25]) + generator.uniform(-0.02, 0.02, 3)
        self._strength = float(generator.uniform(0.0, self.noise))
        self._drift = np.zeros((2, 3))
        self._held = -1  # steps since the right hand began to close; -1: not yet
        self._random = generator

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the next action, (14,)."""
        joints = np.asarray(observation["agent_pos"], np.float64)
        cube = np.asarray(observation["env_state"], np.float64)[:3]
        # noise with a memory of about five steps moves a hand; white noise averages out
        fresh = self._strength * self._random.normal(size=(2, 3))
        self._drift = 0.8 * self._drift + 0.6 * fresh
        right = self._lift(joints[7:], cube)
        left = self._take(joints[:7], cube)
        return np.concatenate([left, right]).astype(np.float32)

    def _lift(self, joints: Floats, cube: Floats) -> Floats:
        """Move the right arm."""
        tips, _ = RIGHT.tips(joints)
        away = float(np.linalg.norm(tips - cube))
        if self._held > self.closing and away > 0.05:  # it slipped out
            self._held = -1
        if self._held < 0 and away < self.near:
            self._held = 0
        noise = self._drift[1] * min(1.0, away / 0.1)
        if self._held < 0:
            aside = float(np.linalg.norm((tips - cube)[:2]))
            height = min(self._over, max(0.0, 4.0 * (aside - 0.8 * self.near)))
            target = cube + np.array([0.0, 0.0, height])
            return np.append(self._right.towards(joints, target, self._pitch, noise), OPEN)
        self._held += 1
        target, pitch = cube, self._pitch
        if self._held > self.closing:
            target = self._meet
            pitch = 0.3 if cube[2] > 0.1 else self._pitch
        return np.append(self._right.towards(joints, target, pitch, noise), CLOSED)

    def _take(self, joints: Floats, cube: Floats) -> Floats:
        """Move the left arm."""
        tips, _ = LEFT.tips(joints)
        ready = np.array([self._meet[0] - 0.15, self._meet[1], self._meet[2]])
        there = float(np.linalg.norm(cube - self._meet)) < 0.03
        away = float(np.linalg.norm(tips - cube))
        noise = self._drift[0] * min(1.0, away / 0.1)
        target = cube - np.array([0.005, 0.0, 0.0]) if there else ready
        grip = CLOSED if there and away < 0.02 else OPEN
        return np.append(self._left.towards(joints, target, 0.0, noise), grip)
