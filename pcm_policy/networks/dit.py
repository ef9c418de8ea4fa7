"""The diffusion transformer of LeRobot's ``multi_task_dit``.

Every step of the chunk is a token. Diffusion step and condition shift, scale and gate every block
(adaLN-Zero, Peebles and Xie 2023); there are no other tokens. Queries and keys turn with their
place in the chunk (RoPE, Su et al. 2021). The arithmetic is that of ``DiffusionTransformer`` in
LeRobot 0.6.1; its ``adaLN_modulation`` layers are one here, cut into the columns of step, condition
and what is fixed, so that ``encode`` computes each part once.
"""

from collections.abc import Iterable
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from pcm_policy.errors import PcmError
from pcm_policy.networks.attention import Attention
from pcm_policy.networks.embedding import check_step_width, leading, sinusoidal_embedding
from pcm_policy.settings import Depth, Range, Width

_FILMS = 6  # of a block: shift, scale and gate of the attention, then of the inner layers
_EPS = 1e-6
_FIXED = 1_000_000


class Rotary(nn.Module):
    """Turns pairs of numbers by angles that grow with the token's place, ``(..., T, width)``.

    Args:
        width: of a head, even.
        tokens: most places, T.
        base: ratio of the fastest turn to the slowest.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, tokens: int, base: float) -> None:
        super().__init__()
        slow = base ** (torch.arange(0, width, 2).float() / width)
        angle = torch.outer(torch.arange(tokens).float(), 1.0 / slow)
        both = torch.cat([angle, angle], dim=-1)
        self.register_buffer("cos", both.cos(), persistent=False)
        self.register_buffer("sin", both.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(B, heads, T, width)``."""
        first, second = x.chunk(2, dim=-1)
        across = torch.cat([-second, first], dim=-1)
        return x * self.cos.to(x.dtype) + across * self.sin.to(x.dtype)


class DiTBlock(nn.Module):
    """Self-attention, then two linear layers, both under shift, scale and gate."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor, films: Tensor, turn: Rotary | None) -> Tensor:
        """Map ``(B, T, width)`` tokens under ``(B, 6, width)`` to the same shape."""
        shift, scale, gate, shift_in, scale_in, gate_in = films[:, :, None].unbind(1)
        h = torch.addcmul(shift, _normed(x), 1 + scale)
        x = torch.addcmul(x, gate, self.attn.itself(h, None, turn))
        h = torch.addcmul(shift_in, _normed(x), 1 + scale_in)
        return torch.addcmul(x, gate_in, self.mlp(h))


def _normed(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], eps=_EPS)


class DiffusionTransformer(nn.Module):
    """Denoiser over action chunks: ``forward(x, t, cond)`` with one timestep a row.

    Args:
        action_dim: numbers in one step of the chunk, Da.
        horizon: chunk length T.
        cond_dim: width C of the condition.
        width: of the tokens, a multiple of ``heads``.
        depth: number of blocks.
        heads: of every attention.
        dropout: share of the attention weights that training leaves out.
        rope_base: of :class:`Rotary`; 0 turns nothing.
        positions: whether every place of the chunk has a learnt embedding.
        step_embed_dim: width of the diffusion step's embedding.
        fixed_dim: width of a condition that never changes, as the features of an instruction. It is
            the buffer ``fixed``: a part of the weights.
        ascending: whether the network's own time runs up from noise, as in LeRobot's flow matching:
            it is shown ``1 - t``.

    Example:
        >>> import torch
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("dit", 2, 16, 40, {"depth": 1, "width": 16, "heads": 2})
        >>> network(torch.zeros(3, 16, 2), torch.zeros(3), torch.zeros(3, 40)).shape
        torch.Size([3, 16, 2])
    """

    fixed: Tensor | None

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: Width = 128,
        depth: Depth = 4,
        heads: Depth = 4,
        dropout: Annotated[float, Range(least=0, below=1)] = 0.1,
        rope_base: Annotated[float, Range(least=0)] = 10_000.0,
        positions: bool = False,
        step_embed_dim: Width = 128,
        fixed_dim: Annotated[int, Range(least=0, most=_FIXED)] = 0,
        ascending: bool = False,
    ) -> None:
        super().__init__()
        check_step_width(step_embed_dim)
        _check(width, depth, heads, rope_base)
        self.step_embed_dim, self.ascending = step_embed_dim, ascending
        self.time_mlp = nn.Sequential(
            nn.Linear(step_embed_dim, 2 * step_embed_dim),
            nn.GELU(),
            nn.Linear(2 * step_embed_dim, step_embed_dim),
            nn.GELU(),
        )
        self.input_proj = nn.Linear(action_dim, width)
        self.positions: nn.Parameter | None = None
        if positions:
            self.positions = nn.Parameter(torch.empty(1, horizon, width).normal_(std=0.02))
        self.turn = Rotary(width // heads, horizon, rope_base) if rope_base else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, dropout) for _ in range(depth))
        films = depth * _FILMS * width
        self.step_films = nn.Linear(step_embed_dim, films, bias=False)
        self.cond_films = nn.Linear(cond_dim, films)
        self.fixed_films = nn.Linear(fixed_dim, films, bias=False) if fixed_dim else None
        self.register_buffer("fixed", torch.zeros(fixed_dim) if fixed_dim else None)
        for layer in (self.step_films, self.cond_films, self.fixed_films):
            for weight in () if layer is None else layer.parameters():
                nn.init.zeros_(weight)  # a new block is the identity
        self.output_proj = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks, ``(B,)`` steps and ``(B, C)`` conditions to ``(B, T, Da)``."""
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Return shifts, scales and gates of all blocks side by side, ``(..., E)``.

        Args:
            t: ``(...)`` steps.
            cond: ``(..., C)`` conditions; leading dimensions broadcast against those of ``t``.
        """
        t = 1.0 - t if self.ascending else t
        step = self.time_mlp(sinusoidal_embedding(t, self.step_embed_dim).to(cond.dtype))
        films: Tensor = self.cond_films(silu(cond))
        if self.fixed is not None and self.fixed_films is not None:
            films = films + self.fixed_films(silu(self.fixed))
        films = self.step_films(silu(step)) + films
        return films.expand(*leading(step, cond), -1)

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks and their ``(B, E)`` to ``(B, T, Da)``."""
        h = self.input_proj(x)
        if self.positions is not None:
            h = h + self.positions
        films = encoded.view(len(x), len(self.blocks), _FILMS, -1).unbind(1)
        for block, film in zip(cast(Iterable[DiTBlock], self.blocks), films, strict=True):
            h = block(h, film, self.turn)
        out: Tensor = self.output_proj(h)
        return out


def _check(width: int, depth: int, heads: int, rope_base: float) -> None:
    """Raise where the sizes do not fit together."""
    if min(width, depth, heads) < 1:
        raise PcmError("width, depth and heads must be at least 1")
    if width % heads:
        raise PcmError(f"width {width} is no multiple of heads {heads}")
    if rope_base and (width // heads) % 2:
        raise PcmError(
            f"rope_base={rope_base:g} turns pairs of numbers, but a head has {width // heads}: "
            "use an even width / heads, or rope_base=0"
        )
    if rope_base and rope_base < 1:
        raise PcmError(f"rope_base={rope_base:g}: use at least 1, or 0 for none")
