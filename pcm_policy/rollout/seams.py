"""How smooth the commands are where one plan takes over from another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODE_SWITCH = 0.1
"""Distance of two plans over their overlap, in action ranges, that counts as another mode."""


@dataclass(frozen=True)
class SeamMetrics:
    """Means over all seams (first command of a new plan), and over all other ticks.

    Lengths are in the unit of the actions; every difference is backward, so that tick ``t`` is
    charged with what reaching its command took.

    Attributes:
        seams: number of seams.
        jump: change of the command at a seam beyond what the commands before it extrapolate to,
            ``|a_t - 2 a_{t-1} + a_{t-2}|``.
        jump_elsewhere: the same at all other ticks.
        velocity: ``|a_t - a_{t-1}| * control_hz``, units per second.
        velocity_elsewhere: the same at all other ticks.
        jerk: third difference times ``control_hz ** 3``, units per second cubed; the largest of the
            three ticks that a seam enters.
        jerk_elsewhere: the same over windows without a seam.
        gap: root mean square distance of consecutive plans where they overlap, action ranges.
        mode_switches: share of the seams whose gap is above ``MODE_SWITCH``.
    """

    seams: int
    jump: float
    jump_elsewhere: float
    velocity: float
    velocity_elsewhere: float
    jerk: float
    jerk_elsewhere: float
    gap: float
    mode_switches: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class SeamSums:
    """What one episode adds to the means: they are sums over episodes, however these are grouped.

    Attributes:
        seams: number of seams.
        sums: of every mean of :class:`SeamMetrics`, its sum in that unit.
        counts: of every mean, how many ticks, windows or gaps it is over.
    """

    seams: int
    sums: dict[str, float]
    counts: dict[str, int]


def seam_sums(
    commands: NDArray[np.float32],
    seam: NDArray[np.bool_],
    gaps: Sequence[float],
    control_hz: float,
) -> SeamSums:
    """Measure the seams of one episode.

    Args:
        commands: ``(n, Da)``.
        seam: ``(n,)`` whether a command is the first of a new plan.
        gaps: of its consecutive plans, action ranges.
        control_hz: commands per second.
    """
    found = {"gap": np.array(gaps, np.float64)}
    found["mode_switches"] = (found["gap"] > MODE_SWITCH).astype(np.float64)
    # the first plan of an episode has nothing to join
    seam = seam.copy()
    seam[: int(np.argmax(seam)) + 1] = False
    if len(commands) < 6:
        return _sums(0, found)
    scales = {"velocity": control_hz, "jump": 1.0, "jerk": control_hz**3}
    for order, (name, scale) in enumerate(scales.items(), start=1):
        size = np.linalg.norm(np.diff(commands.astype(np.float64), order, axis=0), axis=1) * scale
        at = seam[order:]
        if order == 3:
            size = np.lib.stride_tricks.sliding_window_view(size, 3).max(axis=1)
            at, touched = at[:-2], np.convolve(at, np.ones(5))[2:-4] > 0
        else:
            touched = at
        found |= {name: size[at], f"{name}_elsewhere": size[~touched]}
    return _sums(int(seam.sum()), found)


def _sums(seams: int, found: dict[str, NDArray[np.float64]]) -> SeamSums:
    sums = {name: float(values.sum()) for name, values in found.items()}
    return SeamSums(seams, sums, {name: len(values) for name, values in found.items()})


def seam_metrics(episodes: Sequence[SeamSums]) -> SeamMetrics:
    """Return the means over several episodes; 0 where there is nothing to take one over."""
    means = {}
    for name in (one.name for one in fields(SeamMetrics) if one.name != "seams"):
        count = sum(each.counts.get(name, 0) for each in episodes)
        total = sum(each.sums.get(name, 0.0) for each in episodes)
        means[name] = total / count if count else 0.0
    return SeamMetrics(seams=sum(each.seams for each in episodes), **means)
