"""diffusers' own parallel schedulers: the loop that its ParaDiGMS pipeline had around them.

Shih et al. 2023, algorithm 1, as the ``StableDiffusionParadigmsPipeline`` of diffusers runs it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.sampling.noise import Noise


@torch.no_grad()
def paradigms(
    scheduler: Any,
    steps: int,
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Noise,
    tolerance: float,
) -> tuple[Tensor, int]:
    """Return images ``(B, C, H, W)`` and the number of rounds, with a window over all steps.

    Args:
        scheduler: ``DDIMParallelScheduler`` or ``DDPMParallelScheduler``.
        steps: inference steps.
        network: ``(x, t) -> output``.
        noise: initial, and for DDPM each step's.
        tolerance: of the loop, in units of a step's standard deviation; 0.1 is published.
    """
    scheduler.set_timesteps(steps)
    times, size = scheduler.timesteps, noise.initial[0].numel()
    variance = torch.stack([torch.as_tensor(scheduler._get_variance(t)) for t in times]).double()
    kicks = torch.zeros(steps, *noise.initial.shape)
    if not scheduler._is_ode_scheduler:
        assert noise.steps is not None
        kicks = variance.sqrt().float().view(-1, 1, 1, 1, 1) * noise.steps
        kicks[-1] = 0.0  # the last step, to timestep 0, adds none
    inverse = torch.cat([1.0 / variance, torch.full((1,), torch.inf, dtype=torch.float64)]) / size
    states = noise.initial.expand(steps + 1, *noise.initial.shape).clone()
    begin, rounds = 0, 0
    while begin < steps:
        block = states[begin:steps]
        count, batch = block.shape[:2]
        t = times[begin:].repeat_interleave(batch)
        rows = block.flatten(0, 1)
        moved = scheduler.batch_step_no_noise(network(rows, t), t, rows).view_as(block)
        summed = (moved - block).cumsum(dim=0) + kicks[begin:].cumsum(dim=0)
        found = states[begin] + summed
        error = (found - states[begin + 1 :]).flatten(2).double().square().sum(dim=2)
        ratio = (error * inverse[begin + 1 :, None]).nan_to_num(nan=0.0).amax(dim=1)
        over = pad(ratio > tolerance**2, (0, 1), value=True)  # at least one state is new
        states[begin + 1 :] = found
        begin, rounds = begin + min(1 + int(over.int().argmax()), count), rounds + 1
    return states[-1], rounds
