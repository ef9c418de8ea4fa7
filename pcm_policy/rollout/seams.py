"""How smooth the commands are where one plan takes over from another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


def seam_metrics(
    episodes: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_], Sequence[float]]],
    control_hz: float,
) -> SeamMetrics:
    """Measure the seams of several episodes.

    Args:
        episodes: for each, its commands ``(n, Da)``, whether a command is the first of a new plan
            ``(n,)``, and the gaps of its consecutive plans.
        control_hz: commands per second.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    gaps: list[float] = []
    count = 0
    for commands, seam, distances in episodes:
        gaps.extend(distances)
        # the first plan of an episode has nothing to join
        seam = seam.copy()
        seam[: int(np.argmax(seam)) + 1] = False
        if len(commands) < 6:
            continue
        count += int(seam.sum())
        for order, name in ((1, "velocity"), (2, "jump"), (3, "jerk")):
            size = np.linalg.norm(np.diff(commands.astype(np.float64), order, axis=0), axis=1)
            at = seam[order:]
            if order == 3:
                size = np.lib.stride_tricks.sliding_window_view(size, 3).max(axis=1)
                at, touched = at[:-2], np.convolve(at, np.ones(5))[2:-4] > 0
            else:
                touched = at
            found.setdefault(name, []).append(size[at])
            found.setdefault(f"{name}_elsewhere", []).append(size[~touched])
    scale = {"velocity": control_hz, "jump": 1.0, "jerk": control_hz**3}
    means = {
        name: _mean(np.concatenate(parts)) * scale[name.removesuffix("_elsewhere")]
        for name, parts in found.items()
    }
    for name in ("velocity", "jump", "jerk"):
        means.setdefault(name, 0.0)
        means.setdefault(f"{name}_elsewhere", 0.0)
    switched = [gap > MODE_SWITCH for gap in gaps]
    return SeamMetrics(
        seams=count, gap=_mean(np.array(gaps)), mode_switches=_mean(np.array(switched)), **means
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
