"""Behaviour cloning by denoising: the base policy (Ho et al. 2020, Chi et al. 2023)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Prefix, training_target
from pcm_policy.training.batches import Batches, Windows, random_prefixes, step_generator
from pcm_policy.training.cameras import SeeingNetwork, seeded
from pcm_policy.training.loop import Share

VALIDATED, VALIDATED_SEEING = 2048, 64
"""Held-out windows of a validation; images take their time."""


def refuse_inpainting(policy: DiffusionPolicy) -> None:
    """Raise PcmError where a network is to be trained that takes no condition."""
    if policy.config.inpainting:
        raise PcmError(
            "networks that see observations by inpainting are not trained here: distil a PCM head, "
            "which leaves the network as it is"
        )


class Cloning:
    """Mean squared error of the network's prediction at a random noise level.

    Args:
        policy: its network is trained; its normalisers must be fitted.
        train: training windows.
        held_out: windows of other episodes, for the log; may be empty.
        batch: rows per step over all processes.
        seed: all randomness derives from it.

    Raises:
        PcmError: the policy sees its observations by inpainting.
    """

    def __init__(
        self, policy: DiffusionPolicy, train: Windows, held_out: Windows, batch: int, seed: int
    ) -> None:
        refuse_inpainting(policy)
        seeing = train.sight is not None
        self.module: nn.Module = SeeingNetwork(policy) if seeing else policy.network
        self.policy, self.train, self.held_out = policy, train, held_out
        self.rows, self.seed = Batches(len(train.chunk), batch, seed), seed
        schedule = policy.config.schedule
        flow = schedule.name == "flow"
        self.abar = None if flow else schedule.alphas_cumprod().float()

    def to(self, device: torch.device) -> None:
        """Move the windows and the schedule."""
        self.train, self.held_out = self.train.to(device), self.held_out.to(device)
        if self.abar is not None:
            self.abar = self.abar.to(device)

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        generator = step_generator(self.seed, step)
        with seeded(self.seed, step, share.rank):
            return self._denoising(module, self.train, self.rows(step), generator, share)

    def adopt(self, average: nn.Module) -> DiffusionPolicy:
        """Return the policy with the averaged weights of a run."""
        self.module.load_state_dict(average.state_dict())
        return self.policy

    def state(self) -> dict[str, Tensor]:
        """Return nothing: all is a function of the step and of the module."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back nothing."""

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return ``val_loss`` on some held-out windows, always with the same noise."""
        count = len(self.held_out.chunk)
        if count == 0:
            return {}
        most = VALIDATED if self.held_out.sight is None else VALIDATED_SEEING
        rows = torch.linspace(0, count - 1, min(count, most)).long()
        generator = step_generator(self.seed, 2**32)
        return {
            "val_loss": float(self._denoising(module, self.held_out, rows, generator, Share(0, 1)))
        }

    def _denoising(
        self,
        module: nn.Module,
        windows: Windows,
        rows: Tensor,
        generator: torch.Generator,
        share: Share,
    ) -> Tensor:
        device = windows.chunk.device
        shape = (rows.shape[0], *windows.chunk.shape[1:])
        trained = self.policy.config.schedule.train_steps
        if self.abar is None:  # any level of a flow, zero noise left out
            t = (1.0 - torch.rand(rows.shape, generator=generator)) * trained
        else:
            t = torch.randint(trained, rows.shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        config = self.policy.config
        known = random_prefixes(config, len(rows), generator, config.prefix_steps)
        rows, t, noise, known = (share(v).to(device) for v in (rows, t, noise, known))
        clean = windows.chunk[rows]
        prefix = Prefix(clean, known)
        if self.abar is None:
            sigma = (t / trained).view(-1, 1, 1)
            alpha = 1 - sigma
        else:
            abar = self.abar[t].view(-1, 1, 1)
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        target = training_target(clean, noise, alpha, sigma, self.policy.config.prediction)
        x = alpha * clean + sigma * noise
        seen = windows.seen[rows]
        if windows.sight is not None:
            assert isinstance(module, SeeingNetwork)
            seen = module.see(*windows.sight(rows, device))
        output: Tensor = module(x, t, self.policy.join(seen, prefix))
        if self.policy.config.prefix_steps == 0:
            return nn.functional.mse_loss(output.float(), target)
        weight = (~known).float().expand_as(target)  # what is known is not asked for
        return ((output.float() - target).square() * weight).sum() / weight.sum()
