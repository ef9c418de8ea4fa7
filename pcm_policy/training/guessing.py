"""Training of a head's first guess on many cheap targets that are near the sampler's chunk."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.affine import clean_predictions
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.search import Schedule, search
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.system import System
from pcm_policy.training.batches import Batches
from pcm_policy.training.sharing import Share, Team
from pcm_policy.training.targets import Targets
from pcm_policy.training.taught import denoiser_of

FLOOR = 0.01
"""Smooths the square root near zero, ``sqrt(e^2 + FLOOR^2)``; in normalised action units."""
NEAR = 0.02
"""Mean RMSE that chunks of few steps without noise may have; in normalised action units."""


class Guessing:
    """Mean RMSE of the first guess to chunks of the base, or to what it predicts on the way.

    Args:
        policy: with a head that has a first guess.
        targets: the chunks to guess: pools of the guess's own, or those of the rounds.
        seed: all randomness derives from it.
        batch: observations per step over all processes.
        steps: training steps on each pool.
    """

    def __init__(
        self, policy: DiffusionPolicy, targets: Targets, seed: int, *, batch: int, steps: int
    ) -> None:
        self.policy, self.targets, self.seed = policy, targets, seed
        self.batch, self.steps = batch, steps

    def begin(self, step: int, team: Team) -> None:
        """Solve the pool of a step, together with the other processes."""
        self.targets(step // self.steps, team)

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        index, turn = divmod(step, self.steps)
        pool = self.targets(index)
        rows = share(Batches(len(pool.cond), self.batch, self.seed + index)(turn))
        some = pool.pick(rows.to(pool.cond.device))
        denoise = denoiser_of(self.policy, some.cond, some.prefix)
        s = System(denoise, Noise(some.forced[0]), some.forced)
        head: Any = module
        found: Tensor = head.guesses(s)
        wanted, nodes = some.exact[-1:], head.guess_nodes
        if nodes is not None:
            predicted = clean_predictions(denoise.sampler, some.exact, some.forced)
            wanted = predicted[list(nodes)]
        error = (found - wanted).square().mean(dim=(2, 3))
        losses: Tensor = (error + FLOOR**2).sqrt().mean(dim=1)
        loss: Tensor = losses[0] if nodes is None else losses.mean() + losses[-1]
        return loss


@torch.no_grad()
def near_sampler(
    policy: DiffusionPolicy, cond: Tensor, noise: Noise, steps: int
) -> SamplerConfig | None:
    """Search a sampler of few steps that ends near the chunk of the head's.

    That is DPM-Solver++; where noise is drawn in every step, it is the head's own sampler without
    noise. At a low temperature the chunk hardly depends on the noise, and the latter ends near it.

    Args:
        policy: with a head.
        cond: ``(n, C)`` conditions to search on.
        noise: of as many rows.
        steps: network evaluations.

    Returns:
        The sampler at searched timesteps; None where noise is drawn in every step and the chunks
        are more than ``NEAR`` apart, or where the base learnt by flow matching, which
        DPM-Solver++ does not solve.
    """
    head = policy.config.head
    assert head is not None
    if policy.config.schedule.is_flow:
        return None
    noisy = policy.sampler(head.sampler).stochastic
    most = min(steps, head.sampler.steps if noisy else policy.config.schedule.train_steps)
    few = SamplerConfig("dpmpp_2m", most, temperature=head.sampler.temperature)
    if noisy:
        few = replace(head.sampler, steps=most, temperature=0.0)
    exact = sequential(denoiser_of(policy, cond, None), noise).sample

    def cost(schedule: Schedule) -> float:
        denoise = policy.denoiser(cond, replace(few, timesteps=schedule), None)
        error = sequential(denoise, noise).sample - exact
        return float(error.square().mean(dim=(1, 2)).sqrt().mean())

    start = tuple(policy.sampler(few).timesteps.tolist())
    best, error = search(cost, [start], policy.config.schedule.train_steps, 0)
    return replace(few, timesteps=best) if error < NEAR or not noisy else None
