"""What one plan hands to the next: a guess of the next chunk, and the noise that goes with it.

A guess moves no fixed point: at convergence a warm-started solve gives the same chunk. Coupled
noise is another matter: every chunk's noise is still exactly standard normal, but it is no longer
independent of the observation, which the same noise helped to bring about. That is a different
closed-loop policy, smoother at the seams, and is never the default (docs/solvers.md).
"""

import torch
from torch import Tensor

from pcm_policy.sampling.noise import Noise


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
