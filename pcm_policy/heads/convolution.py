"""Convolutional window head: the window head's correction, for images."""

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.few_nodes import FewNodes, scale_of
from pcm_policy.sampling.denoise import Denoiser


class Block(nn.Module):
    """A residual block of two convolutions, modulated by a vector for each image."""

    def __init__(self, width: int, cond_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.modulate = nn.Linear(cond_width, 2 * width)
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Map ``(B, width, H, W)`` and ``(B, cond_width)`` to ``(B, width, H, W)``."""
        scale, shift = self.modulate(c)[..., None, None].chunk(2, dim=1)
        changed: Tensor = self.body(self.norm(h) * (1 + scale) + shift)
        return h + changed


class ConvolutionalHead(FewNodes):
    """Correct the base predictions of a round as :class:`~pcm_policy.heads.WindowHead` does.

    States and predictions at the nodes are channels of one image. What the network makes of them
    multiplies the convolved residual, so that a row near its fixed point gets a small correction.
    The output layer starts at zero: an untrained head changes nothing. Policies have no such head:
    it is made and trained in Python, see docs/library.md.

    Args:
        steps: ``N``, number of states of the sampler it is trained for.
        shape: ``(C, H, W)`` of a sample.
        width: channels, a multiple of 8.
        depth: residual blocks.
        nodes: number of states that the base is evaluated at; predictions in between are
            interpolated in log-SNR. None for all.
        newton: start from the base's quasi-Newton step.
        max_rounds: later rounds share the last round's embedding.
        cond: a module that makes ``(B, cond_width)`` of the condition, such as an embedding of
            labels; None where there is no condition.
        cond_width: width of the vector that modulates the blocks.

    Raises:
        PcmError: a width that is no multiple of 8.

    Example:
        >>> head = ConvolutionalHead(20, (3, 8, 8), nodes=6, cond=nn.Embedding(11, 64))
        >>> head.evaluations
        6
    """

    def __init__(
        self,
        steps: int,
        shape: tuple[int, int, int],
        *,
        width: int = 64,
        depth: int = 2,
        nodes: int | None = 8,
        newton: bool = True,
        max_rounds: int = 4,
        cond: nn.Module | None = None,
        cond_width: int = 64,
    ) -> None:
        if width % 8:
            raise PcmError(f"width={width}: use a multiple of 8")
        super().__init__(steps, shape, nodes, newton)
        self.max_rounds, channels = max_rounds, self.evaluations * shape[0]
        self.cond = cond
        self.round = nn.Embedding(max_rounds, cond_width)
        self.level = nn.Linear(1, cond_width)
        self.inp = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, cond_width) for _ in range(depth))
        self.factors = nn.Conv2d(width, width, 1)
        self.residual = nn.Conv2d(channels, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def _correct(
        self, denoise: Denoiser, states: Tensor, base: Tensor, residual: Tensor, rounds: Tensor
    ) -> Tensor:
        """Return ``(n, B, C, H, W)`` from states, predictions and residual at the nodes."""
        scale = scale_of(residual)
        c = self.round(rounds.clamp(max=self.max_rounds - 1))
        c = c + self.level(scale.view(-1, 1).log())
        if self.cond is not None:
            c = c + self.cond(denoise.cond)
        h = self.inp(channels(torch.cat([states, base])))
        for block in self.blocks:
            h = block(h, c)
        moved = self.out(self.factors(h) * self.residual(channels(residual / scale)))
        batched = states.transpose(0, 1)
        found: Tensor = scale * moved.view(batched.shape).transpose(0, 1)
        return found


def channels(images: Tensor) -> Tensor:
    """Put ``(n, B, C, H, W)`` side by side as ``(B, n * C, H, W)``."""
    return images.transpose(0, 1).flatten(1, 2)
