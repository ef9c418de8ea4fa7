"""What one solve leaves for the next, in numpy: :mod:`pcm_policy.serving.memory` without torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.draws import Draws

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """What one solve leaves for the next.

    Attributes:
        noise: of the solve.
        guess: ``(N, 1, T, D)`` clean predictions at every state, normalised; or ``(1, 1, T, D)``,
            the chunk alone.
        sample: ``(1, T, D)`` the chunk, normalised.
    """

    noise: Draws
    guess: Floats
    sample: Floats


def shift_chunk(chunk: NDArray[Any], executed: int) -> NDArray[Any]:
    """Move a plan ``(..., T, D)`` forward by its executed steps, repeating its last action."""
    steps = chunk.shape[-2]
    shifted: NDArray[Any] = chunk[..., np.minimum(np.arange(steps) + executed, steps - 1), :]
    return shifted


def shift_noise(noise: Draws, fresh: Draws, executed: int) -> Draws:
    """Move the noise of a plan forward by its executed steps; the tail is taken from ``fresh``."""

    def shifted(old: Floats, new: Floats) -> Floats:
        keep = max(old.shape[-2] - executed, 0)
        return np.concatenate([old[..., executed:, :], new[..., keep:, :]], axis=-2)

    steps = None
    if noise.steps is not None and fresh.steps is not None:
        steps = shifted(noise.steps, fresh.steps)
    return Draws(shifted(noise.initial, fresh.initial), steps)


def clean_predictions(mixing: NDArray[Any], states: Floats, forced: Floats) -> Floats:
    """Invert ``X = F + M P`` for the predictions behind a trajectory, in float64.

    Args:
        mixing: ``(N + 1, N)``, ``M``, lower triangular below its first row.
        states: ``(N + 1, 1, T, D)``, ``X``.
        forced: the same, ``F``.

    Returns:
        ``(N, 1, T, D)``.
    """
    off = (states - forced)[1:].reshape(len(mixing) - 1, -1).astype(np.float64)
    found = np.linalg.solve(mixing[1:].astype(np.float64), off)
    return found.astype(np.float32).reshape(states[1:].shape)
