"""ParaDiGMS as published (Shih et al. 2023, algorithm 1), on diffusers' parallel schedulers.

The schedulers ship ``batch_step_no_noise``; the window loop around it is written here from the
paper. What happens in one round: evaluate all states in the window, take one step from each of
them, add up the steps from the window's first state, and slide the window past the states whose
mean squared change is below ``tolerance**2`` times the variance that the scheduler itself gives
that step.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.compare.sides import Solved
from pcm_policy.sampling.denoise import Network

TOLERANCE = 0.1
"""The paper's and diffusers' default."""


def step_variances(scheduler: Any, steps: Tensor) -> Tensor:
    """Return the variance that the scheduler adds at each of its ``(N,)`` timesteps."""
    return torch.stack([torch.as_tensor(scheduler._get_variance(int(t))) for t in steps])


@torch.inference_mode()
def paradigms_diffusers(
    scheduler: Any,
    network: Network,
    cond: Tensor,
    initial: Tensor,
    noise: Tensor | None,
    *,
    tolerance: float = TOLERANCE,
    window: int | None = None,
) -> Solved:
    """Sample by the window loop.

    Args:
        scheduler: a ``DDPMParallelScheduler`` or ``DDIMParallelScheduler`` with its timesteps set.
        network: the denoiser.
        cond: ``(B, C)``.
        initial: ``(B, T, Da)`` standard normal.
        noise: ``(N, B, T, Da)`` standard normal for DDPM; None for DDIM without noise.
        tolerance: of the window's criterion; 0 slides by one state a round, which is exact.
        window: states evaluated at once; None for all.

    Returns:
        The chunk, rounds and evaluations per chunk.
    """
    visited = scheduler.timesteps.to(initial.device)
    steps, batch = len(visited), len(initial)
    window = steps if window is None else min(window, steps)
    variance = step_variances(scheduler, visited).to(initial)
    kicks = None
    if noise is not None:
        # the scheduler's own step adds no noise where the sampler reaches the data
        scale = torch.where(visited > 0, variance.clamp(min=1e-20).sqrt(), 0.0)
        kicks = scale.view(-1, 1, 1, 1) * noise
    # state j is the input of step j, so its change is judged by the variance of step j
    allowed = tolerance**2 * variance
    path = initial.repeat(steps + 1, 1, 1, 1)
    first = rounds = evaluated = 0
    while first < steps:
        last = min(first + window, steps)
        width = last - first
        x = path[first:last]
        flat, t = x.flatten(0, 1), visited[first:last].repeat_interleave(batch)
        output = network(flat, t, cond.repeat(width, 1))
        landed = scheduler.batch_step_no_noise(output, t, flat).view_as(x)
        moves = landed - x
        if kicks is not None:
            moves = moves + kicks[first:last]
        fresh = path[first] + moves.cumsum(dim=0)
        change = (fresh - path[first + 1 : last + 1]).square().mean(dim=(2, 3)).amax(dim=1)
        path[first + 1 : last + 1] = fresh
        path[last + 1 :] = fresh[-1]
        rounds, evaluated = rounds + 1, evaluated + width
        # the state after the window's first is one exact step away; later ones must have settled.
        # The last state of all is nobody's input and always waits for the one before it.
        judged = change[:-1] <= allowed[first + 1 : last]
        first += 1 + int(judged.cumprod(0).sum())
    return Solved(path[-1], rounds, evaluated)
