"""Scripted experts of Lift, Can and Square: reach, close, carry, let go, and again what failed.

They see what a policy sees and nothing else. Each episode has a speed, a height of approach, a
grasp point and noise of its own, so that demonstrations are not one trajectory.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.experts.grasping import (
    CLOSED,
    OPEN,
    Floats,
    Hand,
    Observation,
    Scene,
    about_z,
    above,
    nearest,
)
from pcm_policy.envs.robosuite_controllers import Series


class Grasping(ABC):
    """Reach for an object, close the hand, and do with it what the task wants (``carry``).

    Args:
        noise: largest standard deviation (m) of the noise on the hand's goals.
        slowest: smallest share of full speed.
        series: of robosuite, which gives the observations.
    """

    seen_from: ClassVar[Mapping[Series, int]] = {"1.4": 0, "1.5": 7}
    """Where the object's pose begins among the object's numbers.

    From 1.5 on its pose as the hand sees it comes first."""
    near: ClassVar[float] = 0.012
    """Distance to the grasp point at which the hand closes."""
    closing: ClassVar[int] = 5
    """Fewest steps that closing takes."""
    approach: ClassVar[tuple[float, float]] = (0.03, 0.08)
    """Heights above the grasp point that the hand may come in at."""
    slope: ClassVar[float] = 2.0
    """Of the funnel in which it comes down."""
    early: ClassVar[float] = 0.0
    """Share of the episodes whose first grasp closes too early, above the object.

    A policy misses now and then; only these show it what to do with closed and empty fingers."""
    empty: ClassVar[float] = 0.012
    """Distance of closed fingers that hold nothing."""

    def __init__(self, noise: float = 0.01, slowest: float = 0.7, series: Series = "1.4") -> None:
        self.noise, self.slowest = noise, slowest
        self._from = self.seen_from[series]
        self.reset(np.random.default_rng(0))

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the record of how demonstrations were made."""
        return {"expert": type(self).__name__, "noise": self.noise, "slowest": self.slowest}

    def reset(self, generator: np.random.Generator) -> None:
        """Draw an episode's speed, approach, grasp point and strength of noise."""
        self.hand = Hand(generator, self.noise, self.slowest)
        self._height = float(generator.uniform(*self.approach))
        self.offset = generator.uniform(-1.0, 1.0, 3) * self.spread()
        self._patience = self.closing + int(generator.integers(0, 3))
        self._held = -1  # steps since the hand began to close; -1: not yet
        self._near = 0  # steps close to the grasp point without getting there
        self._above = 0.0  # how far above the grasp point the next grasp closes
        if generator.uniform() < self.early:
            self._above = float(generator.uniform(0.05, 0.08))
        self._random = generator

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next action, (7,)."""
        scene = Scene.read(observation, self._from)
        point, yaw = self.grasp(scene)
        point = above(point, self._above)
        away = float(np.linalg.norm(scene.hand - point))
        lost = away > 0.05 or scene.width < self.empty
        if self._held > self._patience and lost and not self.done(scene):
            self._held, self._above = -1, 0.0
        if self._held < 0:
            turned = abs(nearest(yaw - scene.hand_yaw, 2 * np.pi)) < 0.15
            if away < self.near and turned:
                self._held = 0
            aside = float(np.linalg.norm(scene.hand[:2] - point[:2]))
            height = min(self._height, max(0.0, self.slope * (aside - self.near)))
            height = height if turned else max(height, 0.03)
            self._near += away < 0.05 and turned
            if self._near > 12:  # something is in the way: up, and again elsewhere
                height = 0.07
                if self._near > 24 or away > 0.06:
                    self._near = 0
                    self.offset = self._random.uniform(-1.0, 1.0, 3) * self.spread()
            calm = min(1.0, away / 0.1)
            return self.hand.towards(scene, above(point, height), yaw, OPEN, calm)
        self._held += 1
        if self._held <= self._patience:
            return self.hand.towards(scene, point, yaw, CLOSED, 0.0)
        return self.carry(scene)

    def spread(self) -> Floats:
        """Return how far from the usual grasp point an episode may grasp."""
        return np.array([0.004, 0.004, 0.004])

    @abstractmethod
    def grasp(self, scene: Scene) -> tuple[Floats, float]:
        """Return where to close the hand, and its yaw there."""

    @abstractmethod
    def carry(self, scene: Scene) -> NDArray[np.float32]:
        """Return the next action once the hand has closed."""

    def done(self, scene: Scene) -> bool:
        """Say whether the object is where it should be."""
        return False


class Lift(Grasping):
    """Lift a cube of four centimetres from the table."""

    seen_from: ClassVar[Mapping[Series, int]] = {"1.4": 0, "1.5": 0}

    def grasp(self, scene: Scene) -> tuple[Floats, float]:
        """Grasp as the hand is: its fingers turn a cube that lies askew as they close."""
        return scene.thing + self.offset, 0.0

    def carry(self, scene: Scene) -> NDArray[np.float32]:
        """Go straight up."""
        up = above(scene.hand, 0.1)
        return self.hand.towards(scene, up, scene.hand_yaw, CLOSED, 0.3)


class Can(Grasping):
    """Carry a can of soda from one bin into its compartment of the other."""

    bin: ClassVar[Floats] = np.array([0.15, 0.37])
    """Within the compartment and within reach: its middle, (0.1975, 0.4025), is not quite."""
    near: ClassVar[float] = 0.016
    closing: ClassVar[int] = 9
    early: ClassVar[float] = 0.2
    approach: ClassVar[tuple[float, float]] = (0.08, 0.12)
    slope: ClassVar[float] = 5.0

    def reset(self, generator: np.random.Generator) -> None:
        """Draw where to put it down as well."""
        super().reset(generator)
        self._target = self.bin + generator.uniform(-0.02, 0.02, 2)
        self._over = float(generator.uniform(1.02, 1.08))
        self._released = False

    def grasp(self, scene: Scene) -> tuple[Floats, float]:
        """Grasp from above, a little over its middle."""
        return above(scene.thing + self.offset, 0.01), 0.0

    def carry(self, scene: Scene) -> NDArray[np.float32]:
        """Go up and over, and let go."""
        aside = self._target - scene.hand[:2]
        distance = float(np.linalg.norm(aside))
        if self._released or (distance < 0.03 and scene.hand[2] < 0.97):
            self._released = True
            return self.hand.towards(scene, above(scene.hand, 0.05), 0.0, OPEN, 0.3)
        low = scene.thing[2] < 0.96 and distance > 0.1  # still behind the bin's wall
        target = np.append(scene.hand[:2] + (0.15 if low else 1.0) * aside, self._over)
        if distance < 0.06:
            target[2] = 0.94
        return self.hand.towards(scene, target, 0.0, CLOSED)

    def done(self, scene: Scene) -> bool:
        """Let it fall into the compartment."""
        return self._released and bool(np.linalg.norm(scene.thing[:2] - self.bin) < 0.1)


class Square(Grasping):
    """Put a nut with a square hole over a square peg."""

    peg: ClassVar[Floats] = np.array([0.23, 0.1])
    handle: ClassVar[float] = 0.06
    """Where the handle is grasped, from the middle of the nut.

    Nearer to the hole its frame, as wide as the open hand, gets stuck between the fingers: at 0.054
    in 3 of 40 episodes on MuJoCo 3.9."""
    near: ClassVar[float] = 0.01
    closing: ClassVar[int] = 9
    early: ClassVar[float] = 0.2
    slope: ClassVar[float] = 4.0

    def spread(self) -> Floats:
        """Grasp the middle of the handle."""
        return np.array([0.003, 0.003, 0.002])

    def reset(self, generator: np.random.Generator) -> None:
        """Draw how high to carry it as well."""
        super().reset(generator)
        self._over = float(generator.uniform(1.0, 1.03))
        self._lowering = False
        self._before = np.zeros(3)

    def grasp(self, scene: Scene) -> tuple[Floats, float]:
        """Grasp the handle from above, the fingers on its long sides."""
        along = np.array([np.cos(scene.yaw), np.sin(scene.yaw), 0.0])
        point = scene.thing + self.handle * along + self.offset
        facing = nearest(scene.yaw + np.pi, 2 * np.pi)
        if -1.6 < facing < 2.4:  # the last joint turns further one way than the other
            return point, facing
        return point, nearest(scene.yaw, 2 * np.pi)

    def carry(self, scene: Scene) -> NDArray[np.float32]:
        """Bring the hole over the peg, then down.

        Of the four angles that fit, those are out of the arm's reach whose handle points away from
        the robot or to its far side: it points to the robot if the hand holds it that way round,
        otherwise to the right.
        """
        hand = scene.hand_yaw
        facing = abs(nearest(hand - scene.yaw, 2 * np.pi)) > np.pi / 2
        turn = nearest((np.pi if facing else -np.pi / 2) - scene.yaw, 2 * np.pi)
        reach = about_z(turn)[:2, :2] @ (scene.thing - scene.hand)[:2]
        aside = float(np.linalg.norm(self.peg - scene.thing[:2]))
        drop = scene.hand[2] - scene.thing[2]
        still = float(np.linalg.norm(scene.thing - self._before)) < 0.003
        self._before = scene.thing
        if aside < 0.004 and abs(turn) < 0.06 and still:
            self._lowering = True
        elif aside > 0.012:
            self._lowering = False
        if scene.thing[2] < 0.96 and aside > 0.06:  # first clear of everything
            target = above(scene.hand, 0.1)
            target[:2] += 0.1 * (self.peg - scene.hand[:2])
            return self.hand.towards(scene, target, hand + turn, CLOSED)
        height = 0.83 if self._lowering else self._over
        target = np.append(self.peg - reach, height + drop)
        return self.hand.towards(scene, target, hand + turn, CLOSED, min(1.0, aside / 0.1))
