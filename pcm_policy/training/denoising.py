"""The denoising loss of a base policy (Ho et al. 2020, Chi et al. 2023), whoever runs the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pcm_policy.policy.config import PolicyConfig
from pcm_policy.sampling.denoise import Network, Prefix, training_target
from pcm_policy.training.batches import random_prefixes

Times = Literal["uniform", "high_noise"]
"""How noise levels are drawn: all alike, or most of them near pure noise (Chen et al. 2026)."""
HIGHEST = 3
"""Of so many even draws ``high_noise`` takes the noisiest: its levels follow Beta(3, 1)."""


@dataclass(frozen=True)
class Drawn:
    """The random numbers of a batch.

    Attributes:
        t: ``(B,)`` noise levels, integers or, of a flow, any in ``(0, train_steps]``.
        noise: ``(B, T, Da)`` standard normal.
        known: ``(B, T, 1)`` bool, actions that are shown in the condition.
        asked: steps of a chunk that are not known, the mean over the whole batch.
    """

    t: Tensor
    noise: Tensor
    known: Tensor
    asked: float

    def each(self, change: Callable[[Tensor], Tensor]) -> "Drawn":
        """Return the same of some rows, or elsewhere."""
        return Drawn(change(self.t), change(self.noise), change(self.known), self.asked)


class Denoising:
    """Mean squared error of a network's prediction at a random noise level.

    Args:
        config: of the policy: what is predicted, on which schedule, with which known actions.
        times: how noise levels are drawn.
    """

    def __init__(self, config: PolicyConfig, times: Times = "uniform") -> None:
        self.config, schedule, self.times = config, config.schedule, times
        self._abar = None if schedule.name == "flow" else schedule.alphas_cumprod().float()

    def to(self, device: torch.device) -> None:
        """Move the schedule."""
        self._abar = None if self._abar is None else self._abar.to(device)

    def draw(self, rows: int, generator: torch.Generator | None = None) -> Drawn:
        """Draw the random numbers of a batch on the CPU; None is torch's default generator."""
        trained = self.config.schedule.train_steps
        if self.times == "high_noise":
            level = 1.0 - torch.rand(HIGHEST, rows, generator=generator).amin(dim=0)
            t = level * trained
            t = t if self._abar is None else (t.ceil().long() - 1).clamp(min=0)
        elif self._abar is None:  # any level of a flow, zero noise left out
            t = (1.0 - torch.rand(rows, generator=generator)) * trained
        else:
            t = torch.randint(trained, (rows,), generator=generator)
        shape = (rows, self.config.horizon, self.config.action_dim)
        noise = torch.randn(shape, generator=generator)
        known = random_prefixes(self.config, rows, generator, self.config.prefix_steps)
        return Drawn(t, noise, known, int((~known).sum()) / rows)

    def loss(
        self, network: Network, condition: Callable[[Prefix], Tensor], clean: Tensor, drawn: Drawn
    ) -> Tensor:
        """Return the mean over a batch; of a part of one, so that the mean of equal parts is it.

        Args:
            network: what is trained.
            condition: makes ``(B, C)`` of the actions that are known.
            clean: ``(B, T, Da)`` normalised chunks.
            drawn: the random numbers, on the device of the chunks.
        """
        if self._abar is None:
            sigma = (drawn.t / self.config.schedule.train_steps).view(-1, 1, 1)
            alpha = 1 - sigma
        else:
            abar = self._abar[drawn.t].view(-1, 1, 1)
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        target = training_target(clean, drawn.noise, alpha, sigma, self.config.prediction)
        x = alpha * clean + sigma * drawn.noise
        output = network(x, drawn.t, condition(Prefix(clean, drawn.known)))
        if self.config.prefix_steps == 0:
            return nn.functional.mse_loss(output.float(), target)
        weight = (~drawn.known).float().expand_as(target)  # what is known is not asked for
        asked = drawn.asked * len(target) * target.shape[-1]
        return ((output.float() - target).square() * weight).sum() / asked
