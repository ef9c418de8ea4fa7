"""What one solve leaves for the next: a guess of the next chunk, and its noise.

A guess does not change the fixed point: at convergence a warm-started solve gives the same chunk.
Coupled noise does change the chunk. The noise of every chunk is still standard normal, but it is
not independent of the observation, because the same noise influenced that observation. This is a
different closed-loop policy, smoother at the seams, and never the default (docs/solvers.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.sampling.noise import Noise


@dataclass(frozen=True)
class Memory:
    """What one solve leaves for the next.

    Attributes:
        noise: of one row.
        guess: ``(N, 1, T, Da)`` clean predictions at every state, normalised.
        sample: ``(1, T, Da)`` the chunk, normalised.
    """

    noise: Noise
    guess: Tensor
    sample: Tensor


def shift_chunk(chunk: Tensor, executed: int) -> Tensor:
    """Move a plan ``(..., T, Da)`` forward by its executed steps, repeating its last action.

    The result is the ``guess`` of the next solve, for a clean chunk or for all ``N`` predictions.
    """
    tail = chunk[..., -1:, :].expand(*chunk.shape[:-2], min(executed, chunk.shape[-2]), -1)
    return torch.cat([chunk[..., executed:, :], tail], dim=-2)


def shift_noise(noise: Noise, fresh: Noise, executed: int) -> Noise:
    """Move the noise of a plan forward by its executed steps; the tail is taken from ``fresh``.

    The tails do not overlap what is kept, so that the result is standard normal in every entry and
    all its entries are independent of each other.

    Args:
        noise: the noise of the last solve.
        fresh: new noise of the same shapes, independent of it.
        executed: number of control steps between the two solves.
    """

    def shifted(old: Tensor, new: Tensor) -> Tensor:
        keep = max(old.shape[-2] - executed, 0)
        return torch.cat([old[..., executed:, :], new[..., keep:, :]], dim=-2)

    steps = None
    if noise.steps is not None and fresh.steps is not None:
        steps = shifted(noise.steps, fresh.steps)
    return Noise(shifted(noise.initial, fresh.initial), steps)
