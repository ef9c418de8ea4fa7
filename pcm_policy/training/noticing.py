"""Notes on demonstrations that a user should read before training, one line each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.doctor.checks import NEARLY
from pcm_policy.datasets.formats.replay import ReplayBuffer
from pcm_policy.fields import parse_field
from pcm_policy.policy.config import PolicyConfig

STEPS = 1000
"""Steps of a column's range that float32 should leave."""


def shortest_episode(config: PolicyConfig) -> int:
    """Return the steps of the shortest episode that a window can be cut from."""
    before = min(config.obs_steps - 1, config.horizon - 1)
    after = min(config.action_steps - 1, config.horizon - 1)
    return max(1, config.horizon - before - after)


def short_episodes(lengths: NDArray[np.int64], config: PolicyConfig) -> str | None:
    """Say how many episodes are too short for a window; None where none is.

    Args:
        lengths: ``(episodes,)``.
        config: its horizons.
    """
    least = shortest_episode(config)
    short = int((lengths < least).sum())
    if not short:
        return None
    return f"{short} of {len(lengths)} episodes have fewer than {least} steps and give no window"


def coarse_columns(buffer: ReplayBuffer, fields: Sequence[str]) -> list[str]:
    """Say which columns lose most of their values in float32, which policies compute in.

    A column counts if its range spans fewer than :data:`STEPS` numbers of float32 and half of its
    different values or more become equal: a position in large units, far from its origin.

    Args:
        buffer: holds the arrays, as they are stored.
        fields: of observations and actions.
    """
    found = []
    for text in fields:
        columns = parse_field(text).columns(buffer.arrays[parse_field(text).key])
        if columns.dtype.itemsize <= 4 and columns.dtype.kind == "f":
            continue  # as it is stored
        low, high = (values.astype(np.float64) for values in (columns.min(0), columns.max(0)))
        size = np.maximum(abs(low), abs(high)).astype(np.float32)
        steps = (high - low) / np.spacing(size)
        for i in np.flatnonzero((steps > 0) & (steps < STEPS)):
            exact, rounded = columns[:, i], columns[:, i].astype(np.float32)
            if 2 * len(np.unique(rounded)) <= len(np.unique(exact)):
                found.append(
                    f"{text}, column {i}: float32 leaves {int(steps[i]) + 1} steps between "
                    f"{low[i]:.9g} and {high[i]:.9g}; subtract an origin from it"
                )
    return found


def nearly_constant_columns(buffer: ReplayBuffer, fields: Sequence[str]) -> list[str]:
    """Say which columns hardly change: noise of a still joint, or a signal in a large unit.

    They are normalised to the full range as all others are, so that noise becomes signal.

    Args:
        buffer: holds the arrays, as they are stored.
        fields: of observations and actions.
    """
    found = []
    for text in fields:
        columns = parse_field(text).columns(buffer.arrays[parse_field(text).key])
        span = columns.max(0).astype(np.float64) - columns.min(0).astype(np.float64)
        for i in np.flatnonzero((span > 0) & (span < NEARLY)):
            found.append(
                f"{text}, column {i}: hardly changes, by {span[i]:.2g} in all; if that is noise, "
                "leave it out"
            )
    return found
