"""Behaviour cloning by denoising: the base policy (Ho et al. 2020, Chi et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Prefix, training_target
from pcm_policy.training.cameras import SeeingNetwork, Sight, seeded
from pcm_policy.training.loop import Share

if TYPE_CHECKING:
    from pcm_policy.datasets.frames import Frames

VALIDATED, VALIDATED_SEEING = 2048, 64
"""Held-out windows of a validation; images take their time."""


@dataclass(frozen=True)
class Windows:
    """Demonstration windows, normalised.

    Attributes:
        seen: ``(n, To * Do)`` observations.
        chunk: ``(n, T, Da)`` actions.
        sight: where the images are, of a policy with cameras; ``seen`` has no columns then.
    """

    seen: Tensor
    chunk: Tensor
    sight: Sight | None = None

    @classmethod
    def gather(
        cls,
        policy: DiffusionPolicy,
        obs: Tensor,
        action: Tensor,
        rows: NDArray[np.int64],
        frames: "Mapping[str, Frames] | None" = None,
    ) -> "Windows":
        """Cut windows out of raw ``(steps, Do)`` and ``(steps, Da)`` arrays.

        Args:
            policy: supplies horizons and normalisers.
            obs: raw observations.
            action: raw actions.
            rows: ``(n, T)`` row of every window step.
            frames: of every camera, where images are encoded in training; ``obs`` holds the state
                alone then.
        """
        index = torch.from_numpy(rows)
        observed = index[:, : policy.config.obs_steps]
        chunk = policy.action_normalizer.normalize(action[index])
        if frames:
            return cls(obs.new_zeros(len(rows), 0), chunk, Sight(observed, obs[observed], frames))
        return cls(policy.obs_normalizer.normalize(obs[observed]).flatten(1), chunk)

    def to(self, device: torch.device) -> "Windows":
        """Return a copy on ``device``."""
        return Windows(self.seen.to(device), self.chunk.to(device), self.sight)


def batch_rows(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the ``(batch,)`` rows of a step: every epoch is a permutation of its own.

    A function of its arguments alone, so that training resumes without any generator's state.
    """
    start = step * batch
    rows = np.empty(batch, dtype=np.int64)
    filled = 0
    while filled < batch:
        epoch, offset = divmod(start + filled, count)
        take = min(batch - filled, count - offset)
        rows[filled : filled + take] = _permutation(count, epoch, seed)[offset : offset + take]
        filled += take
    return torch.from_numpy(rows)


_last: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _permutation(count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    key = (count, epoch, seed)
    if key not in _last:
        _last.clear()
        _last[key] = np.random.default_rng([seed, epoch]).permutation(count)
    return _last[key]


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that depends on (seed, step) alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def random_prefixes(
    config: PolicyConfig, batch: int, generator: torch.Generator, steps: int, share: float = 0.5
) -> Tensor:
    """Draw which steps of ``batch`` chunks are known, ``(batch, T, 1)`` bool.

    A share of the rows knows one or more actions from the newest observation's on, within the
    first ``steps``; half of those know the earlier, executed ones as well. Black et al. 2025
    (training-time real-time chunking) condition on known actions in the same way.
    """
    known = torch.zeros(batch, config.horizon, 1, dtype=torch.bool)
    first = config.obs_steps - 1
    if steps <= first or share == 0:
        return known
    draws = torch.rand(3, batch, generator=generator)
    room = steps - first
    end = first + 1 + (draws[1] * room).long().clamp(max=room - 1)
    begin = torch.where(draws[2] < 0.5, 0, first)
    step = torch.arange(config.horizon)
    inside = (step >= begin[:, None]) & (step < end[:, None]) & (draws[0] < share)[:, None]
    return inside[..., None]


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
        self.batch, self.seed = batch, seed
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
        rows = batch_rows(len(self.train.chunk), self.batch, step, self.seed)
        with seeded(self.seed, step, share.rank):
            return self._denoising(module, self.train, rows, step_generator(self.seed, step), share)

    def adopt(self, average: nn.Module) -> DiffusionPolicy:
        """Return the policy with the averaged weights of a run."""
        self.module.load_state_dict(average.state_dict())
        return self.policy

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
        if windows.sight is not None:
            output: Tensor = module(x, t, *windows.sight(rows, device), prefix)
        else:
            output = module(x, t, self.policy.join(windows.seen[rows], prefix))
        if self.policy.config.prefix_steps == 0:
            return nn.functional.mse_loss(output.float(), target)
        weight = (~known).float().expand_as(target)  # what is known is not asked for
        return ((output.float() - target).square() * weight).sum() / weight.sum()
