"""robomimic's ``RolloutPolicy`` interface, for evaluation code that was written against it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import numbers
from pcm_policy.errors import PcmError
from pcm_policy.fields import STATE, parse_field
from pcm_policy.history import History, RecedingHorizon
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver


class RolloutPolicy:
    """``start_episode()``, then one action for every observation of an environment.

    A chunk is solved when the executed steps of the last one are used up. An episode's first
    observation stands for those before it, as in robomimic's ``FrameStackWrapper``.

    Args:
        policy: its ``obs_fields`` name the entries of an observation, in order.
        solver: None for the policy's own.
        frame_stack: observations come with their history already, ``(To, ...)`` an entry, as
            robomimic's wrapper gives them.

    Raises:
        PcmError: the policy does not know its fields.
    """

    def __init__(
        self, policy: DiffusionPolicy, solver: Solver | None = None, frame_stack: bool = False
    ) -> None:
        vision = policy.config.vision
        self._cameras = () if vision is None else tuple(vision.cameras)
        self._numbers = vision is None or vision.state_dim > 0
        if self._numbers and not policy.config.obs_fields:
            raise PcmError(
                "the policy does not say which entries it sees: pcm-import with obs_fields=[...]"
            )
        self.policy, self.solver, self.frame_stack = policy, solver, frame_stack
        self._fields = [parse_field(text) for text in policy.config.obs_fields]
        self.start_episode()

    def start_episode(self) -> None:
        """Forget the history and the rest of the chunk."""
        self._horizon = RecedingHorizon(self.policy.config.obs_steps)
        self._batch: int | None = None

    def __call__(
        self, ob: Mapping[str, ArrayLike], goal: Any = None, batched_ob: bool = False
    ) -> NDArray[np.float32]:
        """Return the action for an observation.

        Args:
            ob: raw entries by name, one observation, or a batch of them side by side; images as
                uint8, height, width and channels last.
            goal: must be None: these policies have no goals.
            batched_ob: whether every entry has a leading batch axis.

        Returns:
            ``(Da,)``, or ``(B, Da)`` for a batch; raw units.

        Raises:
            PcmError: a goal, a missing entry, a wrong width, another number of observations than
                the episode began with, or what ``predict`` refuses.
        """
        if goal is not None:
            raise PcmError("a goal was given: this policy was trained without goals")
        frame = self._frame(ob, batched_ob)
        count = len(next(iter(frame.values())))
        if self._batch not in (None, count):
            raise PcmError(
                f"the episode began with {self._batch} observations at a time, now there are "
                f"{count}: call start_episode() first"
            )
        action = self._horizon.act(frame, self._plan)
        self._batch = count
        return action if batched_ob else action[0]

    def _plan(self, seen: History) -> NDArray[np.float32]:
        obs = seen.stacked(axis=1)
        if self.frame_stack:
            obs = {name: values[:, -1] for name, values in obs.items()}
        given = obs if self._cameras else obs[STATE]
        return self.policy.predict(given, solver=self.solver).action.swapaxes(0, 1)

    def _frame(self, ob: Mapping[str, ArrayLike], batched: bool) -> dict[str, NDArray[Any]]:
        """Return the entries that the policy sees, each with a batch axis in front."""
        frame: dict[str, NDArray[Any]] = {STATE: self._state(ob, batched)} if self._numbers else {}
        for name in self._cameras:
            if name not in ob:
                raise PcmError(f"the observation lacks the camera {name}: it has {', '.join(ob)}")
            image = numbers(f"observation {name}", ob[name])
            frame[name] = image if batched else image[None]
        return frame

    def _state(self, ob: Mapping[str, ArrayLike], batched: bool) -> NDArray[np.float32]:
        """Join the entries: ``(B, Do)``, or ``(B, To, Do)`` where they come stacked."""
        parts = []
        for field in self._fields:
            if field.key not in ob:
                raise PcmError(f"the observation lacks {field.key}: it has {', '.join(ob)}")
            values = numbers(f"observation {field.key}", ob[field.key]).astype(np.float32)
            if values.ndim < batched + self.frame_stack:
                raise PcmError(f"observation {field.key} has shape {values.shape}: an axis lacks")
            values = values if batched else values[None]
            if self.frame_stack:
                rows = field.columns(values.reshape(-1, *values.shape[2:]))
                parts.append(rows.reshape(*values.shape[:2], -1))
            else:
                parts.append(field.columns(values))
        if len({part.shape[:-1] for part in parts}) > 1:
            shapes = {field.key: p.shape for field, p in zip(self._fields, parts, strict=True)}
            raise PcmError(f"the observation's entries have different leading axes: {shapes}")
        return np.concatenate(parts, axis=-1, dtype=np.float32)
