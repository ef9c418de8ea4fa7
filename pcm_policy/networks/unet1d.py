"""The conditional 1-D U-Net of Diffusion Policy, with global conditioning.

Architecture: Chi et al., "Diffusion Policy" (RSS 2023), after Janner et al., "Diffuser" (2022):
convolutions along time, group norm, Mish, and FiLM (Perez et al. 2018) by the step embedding and
the observation. Parameter names and shapes are those of ``ConditionalUnet1D`` in
real-stanford/diffusion_policy, so that its state dicts load here unchanged; modules that carry no
parameters keep their place where a name depends on it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mish

from pcm_policy.errors import PcmError
from pcm_policy.networks.embedding import (
    check_step_width,
    sinusoidal_embedding,
)
from pcm_policy.networks.linears import linears
from pcm_policy.settings import Range, Width

_FINAL_GROUPS = 8  # Diffusion Policy's last block has 8 groups whatever ``n_groups`` is


class _ConvBlock(nn.Module):
    """Convolution that keeps the length, group norm, Mish."""

    def __init__(self, dim_in: int, dim_out: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(dim_in, dim_out, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, dim_out),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class _Resample(nn.Module):
    """One convolution that halves or doubles the length."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _ResidualBlock(nn.Module):
    """Two convolution blocks, FiLM between them, and a shortcut around both."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        cond_dim: int,
        kernel_size: int,
        n_groups: int,
        cond_predict_scale: bool,
    ) -> None:
        super().__init__()
        self.cond_predict_scale = cond_predict_scale
        self.blocks = nn.ModuleList(
            [
                _ConvBlock(dim_in, dim_out, kernel_size, n_groups),
                _ConvBlock(dim_out, dim_out, kernel_size, n_groups),
            ]
        )
        self.film_dim = 2 * dim_out if cond_predict_scale else dim_out
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(cond_dim, self.film_dim))
        self.residual_conv: nn.Module = (
            nn.Identity() if dim_in == dim_out else nn.Conv1d(dim_in, dim_out, 1)
        )

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Maps (B, dim_in, L) under film (B, film_dim, 1) to (B, dim_out, L)."""
        h: Tensor = self.blocks[0](x)
        if self.cond_predict_scale:
            scale, bias = film.chunk(2, dim=1)
            h = torch.addcmul(bias, scale, h)
        else:
            h = h + film
        out: Tensor = self.blocks[1](h) + self.residual_conv(x)
        return out


class _Level(nn.ModuleList):
    """Two residual blocks, then the resampling."""

    def forward(self, x: Tensor, films: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        """Takes two films; returns the features before and after the resampling."""
        h: Tensor = self[0](x, next(films))
        h = self[1](h, next(films))
        return h, self[2](h)


class ConditionalUnet1d(nn.Module):
    """Denoiser over action chunks: ``forward(x, t, cond)`` with one timestep a row.

    Args:
        action_dim: action dimension Da.
        horizon: chunk length T, a multiple of ``2 ** (len(down_dims) - 1)``.
        cond_dim: width C of the conditioning vector.
        down_dims: channels at each resolution, multiples of ``n_groups``.
        kernel_size: odd length of the convolutions.
        n_groups: groups of the group norms.
        cond_predict_scale: FiLM with scale and bias; false: with a bias alone.
        step_embed_dim: width of the diffusion step's embedding.

    Example:
        >>> import torch
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("unet1d", 2, 16, 40, {"down_dims": (8, 16)})  # Da, T, C
        >>> network(torch.zeros(3, 16, 2), torch.zeros(3), torch.zeros(3, 40)).shape
        torch.Size([3, 16, 2])
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        down_dims: Sequence[Width] = (64, 128, 256),
        kernel_size: Annotated[int, Range(least=1, most=99)] = 5,
        n_groups: Width = 8,
        cond_predict_scale: bool = True,
        step_embed_dim: Width = 128,
    ) -> None:
        super().__init__()
        check_step_width(step_embed_dim)
        _check(horizon, down_dims, kernel_size, n_groups)
        self.step_embed_dim = step_embed_dim
        residual = partial(
            _ResidualBlock,
            cond_dim=step_embed_dim + cond_dim,
            kernel_size=kernel_size,
            n_groups=n_groups,
            cond_predict_scale=cond_predict_scale,
        )
        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(),  # the sinusoidal embedding's place: names count from it
            nn.Linear(step_embed_dim, 4 * step_embed_dim),
            nn.Mish(),
            nn.Linear(4 * step_embed_dim, step_embed_dim),
        )
        self.down_modules = nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise([action_dim, *down_dims])):
            last = level == len(down_dims) - 1
            halve = nn.Identity() if last else _Resample(nn.Conv1d(coarse, coarse, 3, 2, 1))
            blocks = [residual(fine, coarse), residual(coarse, coarse)]
            self.down_modules.append(_Level([*blocks, halve]))
        mid = down_dims[-1]
        self.mid_modules = nn.ModuleList([residual(mid, mid), residual(mid, mid)])
        self.up_modules = nn.ModuleList()
        for coarse, fine in pairwise(reversed(down_dims)):
            double = _Resample(nn.ConvTranspose1d(fine, fine, 4, 2, 1))
            blocks = [residual(2 * coarse, fine), residual(fine, fine)]
            self.up_modules.append(_Level([*blocks, double]))
        first = down_dims[0]
        last_block = _ConvBlock(first, first, kernel_size, _FINAL_GROUPS)
        self.final_conv = nn.Sequential(last_block, nn.Conv1d(first, action_dim, 1))
        self._film_dims = [block.film_dim for block in self._residual_blocks()]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Runs the denoiser.

        Args:
            x: noisy chunks, shape (B, T, Da).
            t: integer timesteps, shape (B,).
            cond: conditioning vectors, shape (B, C).

        Returns:
            Prediction of shape (B, T, Da).
        """
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Returns the FiLM of all residual blocks, which does not depend on the chunk.

        Args:
            t: timesteps, shape (...).
            cond: conditioning vectors, shape (..., C); leading dimensions broadcast against t's.

        Returns:
            shape (..., E), in the order of the blocks.
        """
        embedded = sinusoidal_embedding(t, self.step_embed_dim).to(cond.dtype)
        step = self.diffusion_step_encoder(embedded)
        step, seen = mish(step), mish(cond)  # the first layer of every encoder
        encoders = [cast(nn.Linear, block.cond_encoder[1]) for block in self._residual_blocks()]
        return linears(encoders, step, seen)

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Maps chunks (B, T, Da) and their encoding (B, E) to predictions (B, T, Da)."""
        films = iter(encoded[..., None].split_with_sizes(self._film_dims, dim=1))
        h = x.transpose(1, 2)
        skips: list[Tensor] = []
        for down in self.down_modules:
            skip, h = down(h, films)
            skips.append(skip)
        for block in self.mid_modules:
            h = block(h, next(films))
        for up in self.up_modules:
            _, h = up(torch.cat([h, skips.pop()], dim=1), films)
        out: Tensor = self.final_conv(h)
        return out.transpose(1, 2)

    def _residual_blocks(self) -> list[_ResidualBlock]:
        """Returns the blocks in the order in which they run."""
        return [m for m in self.modules() if isinstance(m, _ResidualBlock)]


def _check(horizon: int, down_dims: Sequence[int], kernel_size: int, n_groups: int) -> None:
    """Raises where the sizes do not fit together."""
    if not down_dims:
        raise PcmError("down_dims is empty; name the channels of at least one resolution")
    factor = 2 ** (len(down_dims) - 1)
    if horizon < 1 or horizon % factor:
        raise PcmError(
            f"horizon {horizon} is not a positive multiple of {factor}, which {len(down_dims)} "
            "resolutions need; change the horizon or the number of down_dims"
        )
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise PcmError(f"kernel_size {kernel_size} must be odd, so that lengths are kept")
    for dim in down_dims:
        if dim < 1 or n_groups < 1 or dim % n_groups:
            raise PcmError(f"down_dims has {dim}, not a positive multiple of n_groups {n_groups}")
    if down_dims[0] % _FINAL_GROUPS:
        raise PcmError(f"down_dims starts with {down_dims[0]}, not a multiple of {_FINAL_GROUPS}")
