"""Behaviour cloning by denoising: the base policy (Ho et al. 2020, Chi et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.training.batches import Batches, Windows, step_generator
from pcm_policy.training.cameras import SeeingNetwork, seeded
from pcm_policy.training.denoising import Denoising, Drawn, Times
from pcm_policy.training.sharing import Share, Team
from pcm_policy.training.timing import Stopwatch

VALIDATED, VALIDATED_SEEING = 2048, 64
"""Held-out windows of a validation; images take their time."""


def refuse_inpainting(policy: DiffusionPolicy) -> None:
    """Raise PcmError where a network is to be trained that takes no condition."""
    if policy.config.inpainting:
        raise PcmError(
            "networks that see observations by inpainting are not trained here: distil a PCM head, "
            "which leaves the network as it is"
        )


@dataclass(frozen=True)
class _Batch:
    """What a step needs of some windows, where it is computed.

    Attributes:
        chunk: ``(B, T, Da)`` normalised actions.
        drawn: the random numbers, once for every noise level that a window is seen at.
        seen: ``(B, To * Do)`` observations, without images.
        sight: states, images of every camera, and places of their crops; None without cameras.
    """

    chunk: Tensor
    drawn: tuple[Drawn, ...]
    seen: Tensor
    sight: tuple[Tensor, Mapping[str, Tensor], Tensor] | None


class Cloning:
    """Mean squared error of the network's prediction at a random noise level.

    Args:
        policy: its network is trained; its normalisers must be fitted.
        train: training windows.
        held_out: windows of other episodes, for the log; may be empty.
        batch: rows per step over all processes.
        seed: all randomness derives from it.
        noises: noise levels that a step trains every window at. Images are encoded once for them.
        times: how these levels are drawn.

    Raises:
        PcmError: the policy sees its observations by inpainting.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        train: Windows,
        held_out: Windows,
        batch: int,
        seed: int,
        *,
        noises: int = 1,
        times: Times = "uniform",
    ) -> None:
        refuse_inpainting(policy)
        seeing = train.sight is not None
        self.module: nn.Module = SeeingNetwork(policy) if seeing else policy.network
        self.policy, self.train, self.held_out = policy, train, held_out
        self.rows, self.seed, self.noises = Batches(len(train.chunk), batch, seed), seed, noises
        self.denoising = Denoising(policy.config, times)
        self._reading = Stopwatch()

    def to(self, device: torch.device) -> None:
        """Move the windows and the schedule."""
        self.train, self.held_out = self.train.to(device), self.held_out.to(device)
        self.denoising.to(device)

    def begin(self, step: int, team: Team) -> None:
        """Prepare nothing: all is drawn for a batch."""

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        with self._reading:
            generator = step_generator(self.seed, step)
            batch = self._read(self.train, self.rows(step), generator, share)
        with seeded(self.seed, step, share.rank):
            return self._denoising(module, batch)

    def spent(self) -> Mapping[str, float]:
        """Return the seconds in which batches were drawn and read."""
        return {"read_s": self._reading.taken()}

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
        batch = self._read(self.held_out, rows, generator, Share(0, 1))
        return {"val_loss": float(self._denoising(module, batch))}

    def _read(
        self, windows: Windows, rows: Tensor, generator: torch.Generator, share: Share
    ) -> _Batch:
        """Draw what is random for the whole batch, and read this process's rows of it."""
        device = windows.chunk.device
        drawn = tuple(
            self.denoising.draw(len(rows), generator).each(lambda v: share(v).to(device))
            for _ in range(self.noises)
        )
        sight = None
        if windows.sight is not None:
            shape = len(rows), self.policy.config.obs_steps, len(windows.sight.frames), 2
            places = share(torch.rand(shape, generator=generator)).to(device)
            sight = (*windows.sight(share(rows), device), places)
        rows = share(rows).to(device)
        return _Batch(windows.chunk[rows], drawn, windows.seen[rows], sight)

    def _denoising(self, module: nn.Module, batch: _Batch) -> Tensor:
        seen = batch.seen
        if batch.sight is not None:
            assert isinstance(module, SeeingNetwork)
            seen = module.see(*batch.sight)

        def condition(prefix: Prefix) -> Tensor:
            return self.policy.join(seen, prefix)

        losses = [self.denoising.loss(module, condition, batch.chunk, one) for one in batch.drawn]
        return torch.stack(losses).mean()
