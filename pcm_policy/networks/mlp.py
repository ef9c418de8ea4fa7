"""Residual MLP over the flattened chunk, modulated by step and observation: the CPU default.

What step and observation amount to does not depend on the chunk: ``encode`` computes it and
``decode`` the rest, so that a solve encodes once for all of its rounds.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from pcm_policy.networks.embedding import (
    check_step_width,
    sinusoidal_embedding,
)
from pcm_policy.networks.linears import linears
from pcm_policy.settings import Depth, Width


class AdaLNBlock(nn.Module):
    """``x + gate * MLP(scale * LayerNorm(x) + shift)``; the modulation comes from the condition.

    The gate starts at zero, so a new block is the identity (Peebles and Xie 2023, adaLN-Zero).
    """

    def __init__(self, width: int, cond_dim: int, expansion: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, 3 * width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, width)`` and ``(B, cond_dim)`` to ``(B, width)``."""
        return decode_blocks([self], x, encode_blocks([self], cond))

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """Map ``(B, width)`` under given shift, scale and gate to ``(B, width)``."""
        h = torch.addcmul(shift, torch.layer_norm(x, x.shape[-1:]), scale)
        return torch.addcmul(x, gate, self.down(nn.functional.silu(self.up(h), inplace=True)))


def encode_blocks(blocks: Iterable[nn.Module], cond: Tensor) -> Tensor:
    """Return shift, scale and gate of all blocks side by side, ``(..., 3 depth width)``.

    Args:
        blocks: each an :class:`AdaLNBlock`.
        cond: ``(..., cond_dim)``.
    """
    layers = [cast(AdaLNBlock, block).modulation for block in blocks]
    if not layers:
        return cond[..., :0]
    films = torch.unflatten(linears(layers, cond), -1, (len(layers), 3, -1))
    one = torch.eye(3, dtype=cond.dtype, device=cond.device)[1]  # a new block has a scale of one
    return (films + one[:, None]).flatten(-3)


def decode_blocks(blocks: Iterable[nn.Module], x: Tensor, encoded: Tensor) -> Tensor:
    """Map ``(B, width)`` through blocks, under what :func:`encode_blocks` gives ``(B, E)``."""
    films = iter(encoded.split_with_sizes([x.shape[-1]] * (encoded.shape[-1] // x.shape[-1]), -1))
    for block in blocks:
        x = cast(AdaLNBlock, block).modulated(x, next(films), next(films), next(films))
    return x


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

    Example:
        >>> import torch
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("mlp", 2, 16, 40, {"width": 32, "depth": 1})  # Da, T, C
        >>> network(torch.zeros(3, 16, 2), torch.zeros(3), torch.zeros(3, 40)).shape
        torch.Size([3, 16, 2])
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: Width = 256,
        depth: Depth = 4,
        expansion: Depth = 2,
        step_embed_dim: Width = 128,
    ) -> None:
        super().__init__()
        check_step_width(step_embed_dim)
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
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Return shift, scale and gate of all blocks side by side, ``(..., E)``.

        Args:
            t: ``(...)`` steps.
            cond: ``(..., C)`` conditions; leading dimensions broadcast against those of ``t``.
        """
        step = self.step(sinusoidal_embedding(t, self.step_embed_dim).to(cond.dtype))
        layer, activation = self.mix
        c = activation(linears([cast(nn.Linear, layer)], step, self.cond(cond)))
        return encode_blocks(self.blocks, c)

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks and their ``(B, E)`` to ``(B, T, Da)``."""
        h = decode_blocks(self.blocks, self.inp(x.flatten(1)), encoded)
        result: Tensor = self.out(h).view_as(x)
        return result
