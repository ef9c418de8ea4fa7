"""Training with cameras: encoders and denoiser are one module; images are read for each batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pcm_policy.policy.policy import DiffusionPolicy

if TYPE_CHECKING:  # it needs zarr, which training on tensors does not
    from pcm_policy.datasets.frames import Frames


@dataclass(frozen=True)
class Sight:
    """Where the images of windows are.

    Attributes:
        rows: ``(n, To)`` rows of the observed steps.
        state: ``(n, To, state_dim)`` raw states.
        frames: of every camera.
    """

    rows: Tensor
    state: Tensor
    frames: Mapping[str, "Frames"]

    def __call__(self, which: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Read states ``(b, To, state_dim)`` and images ``(b, To, H, W, 3)`` of some windows."""
        rows = self.rows[which.cpu()]
        images = {k: torch.from_numpy(v.take(rows.numpy())) for k, v in self.frames.items()}
        state = self.state[which.cpu()].to(device)
        return state, {k: v.to(device) for k, v in images.items()}


class SeeingNetwork(nn.Module):
    """The denoiser and the encoders of its images, trained together.

    Args:
        policy: with cameras; its parts are used, not copied.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        assert policy.vision is not None
        self.network, self.vision = policy.network, policy.vision
        self.normalizer = policy.obs_normalizer

    def see(self, state: Tensor, images: Mapping[str, Tensor], places: Tensor) -> Tensor:
        """Encode states ``(B, To, state_dim)`` and images as bytes: ``(B, To * Do)``.

        Args:
            state: raw.
            images: of every camera.
            places: ``(B, To, cameras, 2)`` in [0, 1): where crops are cut out in training.
        """
        return self.normalizer.normalize(self.vision(state, images, places)).flatten(1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Denoise ``(B, T, Da)`` given a condition ``(B, C)``."""
        result: Tensor = self.network(x, t, cond)
        return result


@contextmanager
def seeded(seed: int, step: int, rank: int) -> Iterator[None]:
    """Draw dropout from (seed, step, rank) alone, and leave the generator as it was."""
    state = np.random.SeedSequence([seed, step, rank, 7]).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state >> np.uint64(1)))
        yield


@torch.no_grad()
def encode_rows(
    policy: DiffusionPolicy, state: Tensor, frames: Mapping[str, "Frames"], batch: int = 64
) -> Tensor:
    """Return the observation vectors ``(steps, Do)`` of all rows, images encoded once and for all.

    Args:
        policy: with cameras, in eval mode: the middle of every image is seen.
        state: ``(steps, state_dim)`` raw.
        frames: of every camera.
        batch: rows at a time.
    """
    assert policy.vision is not None
    device, found = policy.device, []
    for start in tqdm(range(0, len(state), batch), desc="encoding", disable=None):
        rows = np.arange(start, min(start + batch, len(state)))
        images = {k: torch.from_numpy(v.take(rows[:, None])).to(device) for k, v in frames.items()}
        some = state[rows].to(device, policy.dtype)[:, None]
        found.append(policy.vision(some, images)[:, 0].cpu())
    return torch.cat(found)
