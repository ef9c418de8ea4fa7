"""What a head is distilled from."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pcm_policy.heads.base import Head
from pcm_policy.sampling.denoise import Denoiser, Prefix


class Taught(Protocol):
    """What a head is distilled from: a policy, or a :class:`~pcm_policy.training.library.Model`.

    ``config`` has ``chunk_shape``, ``action_dim`` (the last entry of a chunk that has actions), and
    ``head`` with the head's ``sampler`` and its number of ``rounds``; of a policy also what known
    and warm first actions need.
    """

    @property
    def config(self) -> Any:
        """Shapes, and the head's sampler and rounds."""

    @property
    def head(self) -> Head | None:
        """The head that is trained."""

    @property
    def network(self) -> nn.Module:
        """The base network."""

    def to(self, device: torch.device, /) -> Any:
        """Move all weights."""

    def join(self, obs: Tensor, prefix: Prefix | None) -> Tensor:
        """Return conditions ``(B, ...)`` of observations and known actions."""

    def denoiser(self, cond: Tensor, sampler: Any, prefix: Prefix | None = None) -> Denoiser:
        """Return the base's ``D``."""


def denoiser_of(policy: Taught, cond: Tensor, prefix: Prefix | None) -> Denoiser:
    """Return the base's ``D`` on the sampler of the policy's head."""
    assert policy.config.head is not None
    return policy.denoiser(cond, policy.config.head.sampler, prefix)
