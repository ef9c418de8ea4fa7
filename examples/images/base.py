"""The networks: a class-conditional ``UNet2DModel`` of diffusers, by noise or as a flow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from examples.images.digits import CLASSES, NONE, Digits
from pcm_policy.envs.vision_operators import declare_vision_operators
from pcm_policy.optional import require
from pcm_policy.sampling.library import Conditional
from pcm_policy.training.batches import Batches, step_generator
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.loop import fit
from pcm_policy.training.sharing import Share, Team

DROPPED = 0.1
"""Share of labels that are hidden in training, which guidance needs."""


def diffusers() -> Any:
    """Return diffusers, whose models import torchvision where it is installed."""
    declare_vision_operators()
    return require("diffusers", "this example", "images")


def unet(width: int) -> Any:
    """Return an untrained network for images ``(1, 8, 8)`` and labels 0 to 10."""
    return diffusers().UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        num_class_embeds=CLASSES + 1,
    )


class Denoising:
    """The usual loss, by diffusers' own scheduler; some labels are hidden.

    Args:
        module: ``(x, t, label) -> output``.
        scheduler: of diffusers; with ``add_noise`` the network learns the noise, else the velocity
            of a flow.
        digits: to train on.
        batch: images in a step.
        seed: all randomness derives from it.
    """

    def __init__(
        self, module: nn.Module, scheduler: Any, digits: Digits, batch: int, seed: int
    ) -> None:
        self.module, self.scheduler, self.digits, self.seed = module, scheduler, digits, seed
        self.rows = Batches(len(digits.labels), batch, seed)

    def to(self, device: torch.device) -> None:
        """Move the digits."""
        self.digits = Digits(self.digits.images.to(device), self.digits.labels.to(device))

    def begin(self, step: int, team: Team) -> None:
        """Prepare nothing."""

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        generator, rows = step_generator(self.seed, step), self.rows(step)
        clean, label = self.digits.images[rows], self.digits.labels[rows]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        draws = torch.rand(2, len(rows), generator=generator).to(clean)
        label = torch.where(draws[0] < DROPPED, NONE, label)
        trained = self.scheduler.config.num_train_timesteps
        if hasattr(self.scheduler, "add_noise"):
            t = (draws[1] * trained).long()
            x, target = self.scheduler.add_noise(clean, noise, t), noise
        else:
            s = 1 - draws[1]
            t, level = s * trained, s.view(-1, 1, 1, 1)
            x, target = (1 - level) * clean + level * noise, noise - clean
        return nn.functional.mse_loss(module(x, t, label), target)

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return nothing: the samples are measured."""
        return {}

    def spent(self) -> Mapping[str, float]:
        """Return nothing: all is in memory."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return nothing: all is a function of the step and of the module."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back nothing."""


def trained(
    scheduler: Any, digits: Digits, width: int, steps: int, output: Path, resume: bool
) -> Conditional:
    """Train a network by this package's loop; returns the average of its weights.

    With ``resume`` it goes on from the newest checkpoint in ``output``, which may be the last one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Conditional(unet(width))
    output.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(
        steps, 64, lr=2e-3, warmup=min(100, steps // 2), ema=0.995, save_every=steps
    )
    objective = Denoising(network, scheduler, digits, config.batch, config.seed)
    made: Any = fit(objective, config, output, Accelerator(cpu=True), resume=resume)
    return made.requires_grad_(False)
