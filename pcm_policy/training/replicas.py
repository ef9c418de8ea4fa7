"""The weights that a run trains, their average and their optimiser: whole in every process."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pcm_policy.training.config import TrainConfig, average_weight
from pcm_policy.training.sharing import Share, Team
from pcm_policy.training.state import Checkpoint, Tensors, parts_of


class Objective(Protocol):
    """What is trained, and on what."""

    module: nn.Module

    def to(self, device: torch.device) -> None:
        """Move data and frozen weights."""

    def begin(self, step: int, team: Team) -> None:
        """Do what is done once a step, before its parts; all processes are here."""

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the mean loss over some rows of the batch of ``step``."""

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return figures on held-out data, for the log."""

    def spent(self) -> Mapping[str, float]:
        """Return seconds since it was last asked that parts of the steps took, for the log."""

    def state(self) -> Tensors:
        """Return what is kept from one step to the next beside the module, for a checkpoint."""

    def restore(self, state: Tensors) -> None:
        """Take back what :meth:`state` returned."""


class PartLoss(nn.Module):
    """An objective's loss as the forward of one module, which distributed training wraps.

    An objective may therefore call its module, and the module's other methods, any number of times.

    Args:
        objective: whose loss.
        module: what is trained.
        share: rows of each part of a step.
    """

    def __init__(
        self, objective: Objective, module: nn.Module, share: Callable[[int], Share]
    ) -> None:
        super().__init__()
        self.module = module
        self._loss, self._share = objective.loss, share

    def forward(self, step: int, part: int) -> Tensor:
        """Return the mean loss over a part of a step's batch."""
        return self._loss(self.module, step, self._share(part))


class Replicas:
    """Weights that every process has whole; gradients are averaged.

    Attributes:
        raw: what is trained.
        ema: the average of its weights.
        loss: the module that is called, of step and part.
        optimizer: of ``raw``.

    Args:
        objective: what is trained.
        config: how.
        accelerator: device, precision and processes.
        team: the processes.
    """

    def __init__(
        self, objective: Objective, config: TrainConfig, accelerator: Accelerator, team: Team
    ) -> None:
        self.objective, self.accelerator = objective, accelerator
        self.raw = self.own(objective.module).to(accelerator.device).train()
        self.ema = AveragedModel(self.raw, multi_avg_fn=average(config.ema), use_buffers=False)
        self.loss: nn.Module = PartLoss(
            objective, self.raw, lambda part: team.share(part, config.accumulate)
        )
        self.spread()
        self.plain_optimizer = torch.optim.AdamW(
            self.raw.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.optimizer = accelerator.prepare(self.plain_optimizer)

    def own(self, module: nn.Module) -> nn.Module:
        """Return the module that is trained: the objective's, which uses it elsewhere too."""
        return module

    def spread(self) -> None:
        """Bring the weights to all processes."""
        self.loss = self.accelerator.prepare(self.loss)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients stay here, unless it is the last part of a step."""
        return nullcontext() if last else self.accelerator.no_sync(self.loss)

    def clip(self, largest: float) -> Tensor:
        """Clip the gradient to a norm, and return the norm that it had."""
        norm: Tensor = self.accelerator.clip_grad_norm_(self.loss.parameters(), largest)
        return norm

    def parts(self) -> dict[str, Tensors]:
        """Return whole tensors for a checkpoint; all processes are here."""
        return parts_of(self.raw, self.ema, self.plain_optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back what :meth:`parts` returned; PcmError where it does not fit."""
        checkpoint.restore(self.raw, self.ema, self.plain_optimizer)

    def average(self) -> nn.Module:
        """Return a whole module with the averaged weights, in eval mode; all processes are here."""
        found: nn.Module = self.ema.module.eval()
        return found


def average(decay: float) -> Any:
    """Return torch's averaging hook: an exponential average that warms up from the start."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, current, average_weight(decay, int(count)))

    return update
