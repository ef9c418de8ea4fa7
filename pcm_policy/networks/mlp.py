"""Residual MLP over the flattened chunk, modulated by step and observation: the CPU default."""

import torch
from torch import Tensor, nn

from pcm_policy.networks.embedding import sinusoidal_embedding


class AdaLNBlock(nn.Module):
    """``x + gate * MLP(scale * LayerNorm(x) + shift)``; the modulation comes from the condition.

    The gate starts at zero, so a new block is the identity (Peebles and Xie 2023, adaLN-Zero).
    """

    def __init__(self, width: int, cond_dim: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(cond_dim, 3 * width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, width)`` and ``(B, cond_dim)`` to ``(B, width)``."""
        shift, scale, gate = self.modulation(cond).chunk(3, dim=-1)
        h = torch.addcmul(shift, self.norm(x), 1 + scale)
        return torch.addcmul(x, gate, self.down(nn.functional.silu(self.up(h))))


class ResidualMLP(nn.Module):
    """Denoiser for short, low-dimensional chunks.

    Args:
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``, the flattened observation history.
        width: hidden width.
        depth: number of residual blocks.
        expansion: width of each block's inner layer, in units of ``width``.
        step_embed_dim: width of the step and of the observation embedding.
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: int = 256,
        depth: int = 4,
        expansion: int = 2,
        step_embed_dim: int = 128,
    ) -> None:
        super().__init__()
        self.step_embed_dim = step_embed_dim
        self.step = nn.Sequential(nn.Linear(step_embed_dim, width), nn.SiLU())
        self.cond = nn.Sequential(
            nn.Linear(cond_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.mix = nn.Sequential(nn.Linear(2 * width, step_embed_dim), nn.SiLU())
        self.inp = nn.Linear(horizon * action_dim, width)
        self.blocks = nn.ModuleList(
            AdaLNBlock(width, step_embed_dim, expansion) for _ in range(depth)
        )
        self.out = nn.Linear(width, horizon * action_dim)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks, ``(B,)`` steps and ``(B, C)`` conditions to ``(B, T, Da)``."""
        step = self.step(sinusoidal_embedding(t, self.step_embed_dim).to(x.dtype))
        c = self.mix(torch.cat([step, self.cond(cond)], dim=-1))
        h = self.inp(x.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        result: Tensor = self.out(h).view_as(x)
        return result
