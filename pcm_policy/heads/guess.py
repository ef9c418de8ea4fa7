"""The chunk that a PCM solve starts from: one small network, before the first round."""

import torch
from torch import Tensor, nn

from pcm_policy.networks.mlp import AdaLNBlock, decode_blocks, encode_blocks
from pcm_policy.sampling.denoise import Prefix


class FirstGuess(nn.Module):
    """Predict the fixed point's chunk from noise and observation alone.

    The network is small beside the base's and distils the whole sampler into one call. The guess
    only has to be nearer than zeros, because the rounds correct it. Noise and observation enter
    side by side, and the observation also modulates every block; with one of the two alone the
    network trains far slower.

    Args:
        noises: number ``n`` of noise states that the network sees; 1 for deterministic samplers.
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``.
        width: hidden width.
        cond_width: width of the vector that modulates the blocks.
        depth: number of residual blocks.
        chunks: number ``k`` of chunks that it predicts.
    """

    def __init__(
        self,
        noises: int,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: int,
        cond_width: int,
        depth: int = 2,
        chunks: int = 1,
    ) -> None:
        super().__init__()
        chunk = horizon * action_dim
        seen = (noises + 2) * chunk + cond_dim  # known actions, and which they are
        self.cond = nn.Sequential(
            nn.Linear(cond_dim, cond_width), nn.SiLU(), nn.Linear(cond_width, cond_width), nn.SiLU()
        )
        self.inp = nn.Linear(seen, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width, cond_width, 2) for _ in range(depth))
        self.out = nn.Linear(width, chunks * chunk)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, forced: Tensor, cond: Tensor, prefix: Prefix | None) -> Tensor:
        """Return ``k`` predictions of the chunks to start from, ``(k, B, T, Da)``.

        Args:
            forced: ``(n, B, T, Da)``, what the noise alone gives at some states.
            cond: ``(B, C)``.
            prefix: actions that are known; the guess has them.
        """
        like = forced[0]
        shown, known = torch.zeros_like(like), torch.zeros_like(like)
        if prefix is not None:
            known = prefix.known.expand_as(like).to(like)
            shown = torch.where(prefix.known, prefix.values, 0.0)
        parts = torch.cat([forced, shown[None], known[None]]).transpose(0, 1).flatten(1)
        h = self.inp(torch.cat([parts, cond], dim=1))
        h = decode_blocks(self.blocks, h, encode_blocks(self.blocks, self.cond(cond)))
        found: Tensor = self.out(h).view(len(like), -1, *like.shape[1:]).transpose(0, 1)
        return found if prefix is None else prefix.apply(found)
