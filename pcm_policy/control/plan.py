"""Requests and plans, which controller and solver exchange, and the blend of two plans."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.fields import STATE

Actions = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Frame:
    """What a robot saw in one tick, checked.

    A planner encodes the images of a frame once and keeps the features for as long as the frame is
    kept. Two frames are therefore never equal, whatever they show.

    Attributes:
        state: ``(Do,)`` the numbers of the observation, raw.
        images: ``(H, W, 3)`` of every camera; empty for a policy without cameras.
        number: names it on the wire; counts the frames of a process.

    Example:
        >>> frame = Frame(np.zeros(2, np.float32), {"top": np.zeros((96, 96, 3), np.uint8)})
        >>> list(frame.images)
        ['top']
    """

    state: NDArray[np.float32]
    images: Mapping[str, Image] = field(default_factory=dict)
    number: int = field(default_factory=count().__next__)


def same_images(one: Mapping[str, Image], other: Mapping[str, Image]) -> bool:
    """Return whether the same cameras gave the same images."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@dataclass(frozen=True)
class PlanRequest:
    """Everything that one solve depends on.

    Attributes:
        id: counts the requests of a controller.
        seed: of the episode; names the noise together with ``tick``.
        tick: control step of the newest observation.
        clock: executed steps of plans, see :class:`~.controller.Controller`.
        obs: ``(To, Do)`` the numbers of the observations, raw, oldest first.
        prefix: ``(n, Da)`` raw actions that are known already; may be empty.
        past: number of prefix actions before the newest observation, 0...``To - 1``.
        executed: steps executed since the solve that gave ``memory``.
        warm_start: ``off``, ``chunk``, ``trajectory`` or ``auto``.
        couple_noise: shift the noise of that solve.
        prefix_input: show the network the prefix as well.
        memory: the planner's data of the last accepted solve, or None; opaque here.
        frames: the ``To`` frames that were observed, oldest first; empty for a policy without
            cameras. The first frame of an episode stands for those before it.

    Example:
        >>> import numpy as np
        >>> from pcm_policy.control import Controller, PolicySpec
        >>> spec = PolicySpec(
        ...     obs_dim=2, action_dim=1, horizon=4, obs_steps=1, action_steps=2, control_hz=10,
        ...     obs_low=(-1, -1), obs_high=(1, 1), action_low=(-1,), action_high=(1,),
        ... )
        >>> controller = Controller(spec)
        >>> controller.observe(np.zeros(2))
        >>> request = controller.request()
        >>> request.tick, request.obs.shape
        (0, (1, 2))
    """

    id: int
    seed: int
    tick: int
    clock: float
    obs: NDArray[np.float32]
    prefix: Actions
    past: int = 0
    executed: int = 0
    warm_start: str = "off"
    couple_noise: bool = False
    prefix_input: bool = False
    memory: Any = None
    frames: tuple[Frame, ...] = ()

    @property
    def observation(self) -> Any:
        """What was observed as ``predict`` takes it: ``(To, Do)``, with cameras a dictionary."""
        if not self.frames:
            return self.obs
        images = {k: np.stack([f.images[k] for f in self.frames]) for k in self.frames[-1].images}
        return images | ({STATE: self.obs} if self.obs.shape[1] else {})


@dataclass(frozen=True)
class Plan:
    """The answer to a request.

    Attributes:
        id: of the request.
        actions: ``(T - To + 1, Da)`` raw actions, the first for the newest observation.
        memory: goes into the next request.
        rounds: batched network calls of the solve.
        bound: estimated largest error against the exact chunk, in normalised units; infinite
            if there is no estimate.
        certified: whether the chunk is the sequential sampler's.
        fault: why there are no usable actions, or None.
        encode_ms: time that encoding frames took in this plan, part of its solve time.
        late_frames: frames before the newest one that were not encoded when the solve began.

    Example:
        >>> plan = Plan(id=1, actions=np.zeros((4, 1), np.float32), rounds=2)
        >>> plan.certified, plan.bound
        (False, inf)
    """

    id: int
    actions: Actions
    memory: Any = None
    rounds: int = 0
    bound: float = float("inf")
    certified: bool = False
    fault: str | None = None
    encode_ms: float = 0.0
    late_frames: int = 0


@dataclass(frozen=True)
class ActiveChunk:
    """Actions on the controller's step counter.

    Attributes:
        start: step of the first action.
        actions: ``(n, Da)``.
    """

    start: float
    actions: Actions

    def at(self, clock: float) -> Actions | None:
        """Return the action at a step, ``(Da,)``, linear in between; None past the end."""
        place = clock - self.start
        i = int(np.floor(place))
        if i < 0 or i >= len(self.actions):
            return None
        share = np.float32(place - i)
        if share == 0 or i + 1 == len(self.actions):
            alone: Actions = self.actions[i].copy()
            return alone
        mixed: Actions = (1 - share) * self.actions[i] + share * self.actions[i + 1]
        return mixed

    def ahead(self, clock: float, count: int) -> Actions:
        """Return the next actions from a step on, at most ``count`` of them."""
        left = max(int(np.ceil(self.start + len(self.actions) - clock)), 0)
        found = [self.at(clock + k) for k in range(min(count, left))]
        rows = [action for action in found if action is not None]
        return np.array(rows, np.float32).reshape(-1, self.actions.shape[1])


def blend(old: ActiveChunk, new: ActiveChunk, clock: float, steps: int) -> ActiveChunk:
    """Let a new plan take over from an old one within ``steps`` steps.

    Step ``k`` after the seam takes ``(k + 1) / (steps + 1)`` of the new plan, as far as the old one
    reaches. Zero steps is a hard switch.
    """
    remains = old.ahead(clock, steps)
    first = round(clock - new.start)
    actions = new.actions.copy()
    count = min(len(remains), len(actions) - first)
    if count < 1:
        return new
    share = (np.arange(1, count + 1, dtype=np.float32) / (steps + 1))[:, None]
    actions[first : first + count] *= share
    actions[first : first + count] += (1 - share) * remains[:count]
    return ActiveChunk(new.start, actions)
