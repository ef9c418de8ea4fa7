"""Noise named by (seed, tick), in numpy alone: a policy and a robot without torch draw the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError

INITIAL_STREAM, STEP_STREAM = 0, 1


@dataclass(frozen=True)
class Draws:
    """All the randomness of one solve.

    Attributes:
        initial: ``(B, T, Da)`` float32, standard normal, the state ``x_0``.
        steps: ``(N, B, T, Da)`` float32, standard normal, added by stochastic samplers; or None.
    """

    initial: NDArray[np.float32]
    steps: NDArray[np.float32] | None = None


def draw(
    episodes: Sequence[int], ticks: Sequence[int], shape: tuple[int, ...], steps: int = 0
) -> Draws:
    """Draw the noise of episode ``episodes[b]`` at tick ``ticks[b]``, for every row ``b``.

    Initial and per-step noise come from separate counter-based streams (Philox, Salmon et al.
    2011): the initial noise does not depend on ``steps``, and the first steps' noise does not
    depend on how many follow.

    Args:
        episodes: seeds of the episodes, ``B`` non-negative integers.
        ticks: index of the planning tick within each episode, ``B`` non-negative integers.
        shape: ``(T, Da)`` of one chunk.
        steps: number of per-step noises, 0 for deterministic samplers.

    Raises:
        PcmError: a seed or a tick below 0, or too large for the generator.

    Example:
        >>> draw([0, 1], [0, 0], (16, 2)).initial.shape
        (2, 16, 2)
    """
    for name, numbers, end in (("seed", episodes, 2**64), ("tick", ticks, 2**63)):
        wrong = [value for value in numbers if not 0 <= value < end]
        if wrong:
            raise PcmError(f"{name} {wrong[0]}: use a whole number from 0, below {end}")

    def stream(number: int, *size: int) -> NDArray[np.float32]:
        rows = [
            np.random.Generator(np.random.Philox(key=[episode, 2 * tick + number])).standard_normal(
                size, dtype=np.float32
            )
            for episode, tick in zip(episodes, ticks, strict=True)
        ]
        return np.stack(rows)

    initial = stream(INITIAL_STREAM, *shape)
    if steps == 0:
        return Draws(initial)
    drawn = stream(STEP_STREAM, steps, *shape)
    return Draws(initial, np.ascontiguousarray(drawn.swapaxes(0, 1)))
