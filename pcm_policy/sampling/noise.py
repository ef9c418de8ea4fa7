"""Noise drawn before the solve: a pure function of who asks and when.

Every solver sees the same numbers, so that solvers can be compared pairwise and a parallel solve
can be checked against the sequential one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.draws import draw


@dataclass(frozen=True)
class Noise:
    """All the randomness of one solve.

    Attributes:
        initial: ``(B, T, Da)`` standard normal, the state ``x_0``.
        steps: ``(N, B, T, Da)`` standard normal added by stochastic samplers, or None.

    Example:
        >>> noise = episode_noise(episodes=[0, 1], ticks=[0, 0], shape=(16, 2))
        >>> noise.initial.shape
        torch.Size([2, 16, 2])
    """

    initial: Tensor
    steps: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Noise":
        """Return a copy on ``device`` in ``dtype``."""
        steps = None if self.steps is None else self.steps.to(device, dtype)
        return Noise(self.initial.to(device, dtype), steps)

    def pick(self, rows: Tensor) -> "Noise":
        """Return a copy of some rows, ``(b,)`` int64."""
        return Noise(self.initial[rows], None if self.steps is None else self.steps[:, rows])

    def row(self, i: int) -> "Noise":
        """Return a copy of row ``i``, as a batch of one."""
        steps = None if self.steps is None else self.steps[:, i : i + 1].clone()
        return Noise(self.initial[i : i + 1].clone(), steps)


def episode_noise(
    episodes: Sequence[int], ticks: Sequence[int], shape: tuple[int, int], steps: int = 0
) -> Noise:
    """Draw the noise of episode ``episodes[b]`` at tick ``ticks[b]``, for every row ``b``.

    See :func:`pcm_policy.draws.draw`, which needs no torch.

    Args:
        episodes: seeds of the episodes, ``B`` non-negative integers.
        ticks: index of the planning tick within each episode, ``B`` non-negative integers.
        shape: ``(T, Da)`` of one chunk.
        steps: number of per-step noises, 0 for deterministic samplers.

    Returns:
        float32 noise on the CPU.
    """
    drawn = draw(episodes, ticks, shape, steps)
    added = None if drawn.steps is None else torch.from_numpy(drawn.steps)
    return Noise(torch.from_numpy(drawn.initial), added)


def generator_noise(
    generator: torch.Generator, batch: int, shape: tuple[int, ...], steps: int = 0
) -> Noise:
    """Draw noise for ``batch`` chunks from a generator, on the generator's device."""

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=generator.device, dtype=torch.float32)

    initial = draw(batch, *shape)
    return Noise(initial, draw(steps, batch, *shape) if steps else None)
