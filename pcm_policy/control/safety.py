"""Checks of what enters and leaves a controller; every refusal is counted and logged."""

import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import numbers
from pcm_policy.control.plan import Actions
from pcm_policy.control.settings import PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits

LOG = logging.getLogger("pcm_policy.control")
KEPT_EVENTS = 256
ROUNDING = 1e-3  # share of the rate limit that float32 may take without being counted


def frame_fault(frame: Any, spec: PolicySpec) -> str | None:
    """Say what is wrong with an observation ``(Do,)``, or nothing."""
    try:
        given = numbers("observation", frame)
    except PcmError as error:
        return str(error)
    with np.errstate(over="ignore"):  # what does not fit is infinite, and named below
        array = given.astype(np.float32)
    if array.shape != (spec.obs_dim,):
        return f"observation has shape {array.shape}: this policy takes ({spec.obs_dim},)"
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        return f"observation is not finite in dimension {bad[0]}: {array[bad[0]]}"
    excess = _excess(array, spec.obs_low, spec.obs_high)
    worst = int(excess.argmax()) if len(excess) else 0
    if len(excess) and not excess[worst] <= spec.max_excess:
        return (
            f"observation is out of range in dimension {worst}: {array[worst]:g} against "
            f"{spec.obs_low[worst]:g} to {spec.obs_high[worst]:g} in training"
        )
    return None


def chunk_fault(actions: Any, spec: PolicySpec) -> str | None:
    """Say what is wrong with planned actions ``(T - To + 1, Da)``, or nothing."""
    try:
        array = numbers("plan", actions)
    except PcmError as error:
        return str(error)
    if array.shape != (spec.usable, spec.action_dim):
        return f"plan has shape {array.shape}, not ({spec.usable}, {spec.action_dim})"
    if not np.isfinite(array).all():
        return "plan is not finite"
    excess = _excess(array, spec.action_low, spec.action_high)
    if not excess.max() <= spec.max_excess:
        return f"plan lies {excess.max():.1f} training ranges outside: the solve diverged"
    return None


def _excess(
    values: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]
) -> NDArray[np.float64]:
    below, above = np.asarray(low, np.float64), np.asarray(high, np.float64)
    width = np.where(above > below, above - below, 1.0)
    outside: NDArray[np.float64] = np.maximum(np.maximum(below - values, values - above), 0)
    return outside / width


@dataclass(frozen=True)
class Gate:
    """The last check of a command before the robot; it also checks its own output.

    Attributes:
        limits: range and rate.
        on_limit: ``clip``, ``hold`` or ``stop``.
    """

    limits: ActionLimits
    on_limit: str = "clip"

    def check(self, action: Actions, previous: Actions | None) -> tuple[Actions | None, str | None]:
        """Return the command, or None to hold the previous one; and what was wrong.

        Args:
            action: ``(Da,)``, finite or not.
            previous: the command before it, if there was one.
        """
        last = None if previous is None else previous[None]
        try:  # finite going in and coming out
            allowed = self.limits.apply(action[None, None], last)[0, 0]
        except PcmError as error:
            return None, str(error)
        inside = ActionLimits(self.limits.low, self.limits.high).apply(action[None, None])[0, 0]
        if not np.array_equal(inside, action):
            return (allowed if self.on_limit == "clip" else None), "outside the limits"
        step = self.limits.max_step
        moved = np.abs(allowed - action)
        if step is not None and not np.all(moved <= ROUNDING * np.asarray(step)):
            return (allowed if self.on_limit == "clip" else None), "above the rate limit"
        return allowed, None


class Record:
    """Counts over all episodes, and the latest events in words.

    The first event of a kind in an episode is logged as a warning, later ones as debug messages.
    Otherwise a dead sensor would fill the disk.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.events: deque[tuple[int, str, str]] = deque(maxlen=KEPT_EVENTS)
        self._said: set[str] = set()

    def new_episode(self) -> None:
        """Let every kind of event be said aloud once more."""
        self._said.clear()

    def count(self, kind: str, by: int = 1) -> None:
        """Count without a message."""
        self.counts[kind] += by

    def event(self, tick: int, kind: str, detail: str) -> None:
        """Count, keep and log."""
        self.counts[kind] += 1
        self.events.append((tick, kind, detail))
        level = logging.DEBUG if kind in self._said else logging.WARNING
        self._said.add(kind)
        LOG.log(level, "tick %d: %s: %s", tick, kind, detail)
