"""The loop of a client that only sends observations: history, noise, the rest of a chunk."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.plan import Actions, Frame, Image, Plan, PlanRequest, same_images
from pcm_policy.control.wire import WireError
from pcm_policy.serving.observation import Seen
from pcm_policy.serving.protocol import Service, timing

NO_STATE = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Turn:
    """The answer to an observation.

    Attributes:
        actions: ``(n, Da)`` raw actions, the first for the newest observation.
        plan: that they are of.
        timing: milliseconds, see :func:`.protocol.timing`; ``infer_ms`` is the solve's, and 0 for
            what was left of a chunk.
    """

    actions: Actions
    plan: Plan
    timing: Mapping[str, float]


class Loop:
    """Receding horizon on the server's side, for one connection.

    Args:
        service: what connections share.
        socket: the connection.
        replan_steps: observations for which a chunk is used.
        seed: of the first episode.
    """

    def __init__(self, service: Service, socket: Any, replan_steps: int, seed: int) -> None:
        self._service, self._socket, self._replan = service, socket, replan_steps
        self._past = service.options.observe.history or "steps"
        room = service.planner.spec.obs_steps
        self._states: deque[NDArray[np.float32]] = deque(maxlen=room)
        self._frames: deque[Frame] = deque(maxlen=room)
        self._ids = count()
        self.seed = seed
        self.begin()

    def begin(self, seed: int | None = None) -> None:
        """Begin an episode, with its own seed if one is given: nothing of the last one is left."""
        self._states.clear()
        self._frames.clear()
        self._plan: Plan | None = None
        self._tick, self._used = -1, 0
        self.seed = self.seed if seed is None else seed

    async def act(self, seen: Seen, came: float, tick: int | None = None) -> Turn:
        """Take an observation and return the actions from it on.

        Args:
            seen: the newest observation; a whole history replaces what was seen.
            came: when its message came, ``time.perf_counter``.
            tick: control steps since the episode began; None counts observations.

        Raises:
            WireError: it lacks its history, or cannot be solved, or not now.
            ConnectionClosed: the client has gone.
        """
        room = self._states.maxlen or 1
        if self._past == "message" and len(seen.states) != room:
            raise WireError("shape", f"an observation comes with its history: {room} in a message")
        self._tick = self._tick + 1 if tick is None else tick
        self._observe(seen)
        if self._plan is None or self._used >= self._replan:
            return await self._solved(came)
        left = self._plan.actions[self._used :]
        self._used += 1
        if self._frames:  # encoded now, so that no plan waits for it
            self._service.batcher.show(self._frames[-1], self._socket, len(self._frames))
        spent = {"infer_ms": 0.0, "total_ms": (time.perf_counter() - came) * 1e3}
        return Turn(left, self._plan, spent)

    async def _solved(self, came: float) -> Turn:
        self._plan = None  # none, if this fails
        request = PlanRequest(
            id=next(self._ids),
            seed=self.seed,
            tick=self._tick,
            clock=0.0,
            obs=np.stack(self._states),
            prefix=np.zeros((0, self._service.planner.spec.action_dim), np.float32),
            frames=tuple(self._frames),
        )
        served = await self._service.plan(request, self._socket)
        self._plan, self._used = served.plan, 1
        spent = {"infer_ms": served.solve_ms, **timing(served, came)}
        return Turn(served.plan.actions, served.plan, spent)

    def _observe(self, seen: Seen) -> None:
        room = self._states.maxlen or 1
        if self._past == "newest":
            self._states.clear()
        times = 1 if self._states or len(seen.states) > 1 else room
        self._states.extend([*seen.states] * times)
        if self._service.planner.spec.cameras:
            self._frames.extend([self._frame(images) for images in seen.images] * times)

    def _frame(self, images: Mapping[str, Image]) -> Frame:
        """Return the frame of some images; one that is known, if it is the same: it is encoded."""
        known = (frame for frame in self._frames if same_images(frame.images, images))
        return next(known, None) or Frame(NO_STATE, images)
